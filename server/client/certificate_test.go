package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyPair writes a self-signed certificate for clients and its key.
func keyPair(t *testing.T, dir, name string) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	return cert, certFile, keyFile
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	trusted, certFile, keyFile := keyPair(t, dir, "ci")
	_, strangeCert, strangeKey := keyPair(t, dir, "stranger")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].Subject.CommonName != "ci" {
			t.Errorf("the server sees %v", r.TLS.PeerCertificates)
		}
		io.WriteString(w, "[]")
	}))
	pool := x509.NewCertPool()
	pool.AddCert(trusted)
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(dir, "ca.pem")
	writePEM(t, ca, "CERTIFICATE", srv.Certificate().Raw)

	for name, c := range map[string]struct {
		cert, key, hint string
	}{
		"with it":    {certFile, keyFile, ""},
		"without":    {"", "", "set client_certificate and client_key"},
		"a stranger": {strangeCert, strangeKey, "set client_certificate and client_key"},
	} {
		cl, err := New(srv.URL, secretToken, Options{CACertificate: ca, ClientCertificate: c.cert, ClientKey: c.key, RetryWait: time.Millisecond})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = cl.ListArtifacts(t.Context(), "")
		if (err == nil) != (c.hint == "") || !strings.Contains(hintOf(err), c.hint) {
			t.Errorf("%s: %v, hint %q", name, err, hintOf(err))
		}
	}
}

func TestClientCertificateRefused(t *testing.T) {
	dir := t.TempDir()
	_, certFile, keyFile := keyPair(t, dir, "one")
	_, _, otherKey := keyPair(t, dir, "two")
	open := filepath.Join(dir, "open.key")
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	encrypted := filepath.Join(dir, "encrypted.key")
	writePEM(t, encrypted, "ENCRYPTED PRIVATE KEY", []byte("x"))
	large := filepath.Join(dir, "large.key")
	if err := os.WriteFile(large, make([]byte, maxCertificateFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ cert, key, text, hint string }{
		"no key":         {certFile, "", "needs its key", ""},
		"no certificate": {"", keyFile, "a client key its certificate", ""},
		"not there":      {certFile, dir + "/nothing", "no such file", ""},
		"a directory":    {dir, keyFile, "not a file", ""},
		"others read":    {certFile, open, "its mode is 0640", "chmod 600 " + open},
		"encrypted":      {certFile, encrypted, "encrypted", "openssl pkey"},
		"another key":    {certFile, otherKey, "does not go with", ""},
		"swapped":        {keyFile, certFile, "", ""}, // whichever of the two mistakes is met first
		"large":          {certFile, large, "larger than 1024 KiB", ""},
	} {
		_, err := New("https://ota.example.com", "", Options{ClientCertificate: c.cert, ClientKey: c.key})
		if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(hintOf(err), c.hint) {
			t.Errorf("%s: %v, hint %q", name, err, hintOf(err))
			continue
		}
		if strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: the error shows a file: %v", name, err)
		}
	}
}
