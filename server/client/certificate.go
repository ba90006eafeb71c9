package client

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// maxCertificateFile bounds a PEM file: a chain has a few certificates of a few kilobytes.
const maxCertificateFile = 1 << 20

// CertificateError is a client certificate or its key that cannot be used.
type CertificateError struct {
	Path   string
	Reason string
	Advice string // what to do, may be ""
}

func (e *CertificateError) Error() string { return fmt.Sprintf("%s: %s", e.Path, e.Reason) }

// Hint says what to do.
func (e *CertificateError) Hint() string { return e.Advice }

// loadClientCertificate reads a certificate and its key. No error quotes the content of the key.
func loadClientCertificate(certFile, keyFile string) (tls.Certificate, error) {
	if certFile == "" || keyFile == "" {
		return tls.Certificate{}, errors.New("a client certificate needs its key, and a client key its certificate")
	}
	cert, _, err := readPEM(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, mode, err := readPEM(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer clear(key)
	// A pipe, such as bash's <(...), has no permissions that mean something.
	if mode.IsRegular() && runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return tls.Certificate{}, &CertificateError{
			Path: keyFile, Advice: "chmod 600 " + keyFile,
			Reason: fmt.Sprintf("other users may read or change the private key (its mode is %04o)", mode.Perm()),
		}
	}
	if bytes.Contains(key, []byte("ENCRYPTED")) {
		return tls.Certificate{}, &CertificateError{
			Path: keyFile, Reason: "the private key is encrypted, and nobody is asked for its passphrase here",
			Advice: "openssl pkey -in " + keyFile + " -out KEY decrypts it; keep KEY with mode 0600",
		}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // the cause stays out: parsers may quote parts of what they read
		return tls.Certificate{}, &CertificateError{
			Path: certFile, Reason: "it does not go with the key in " + keyFile + ", or one of them is no PEM file of its kind",
		}
	}
	return pair, nil
}

func readPEM(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		reason := "the file cannot be opened"
		var pe *fs.PathError
		if errors.As(err, &pe) {
			reason = pe.Err.Error()
		}
		return nil, 0, &CertificateError{Path: path, Reason: reason}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		return nil, 0, &CertificateError{Path: path, Reason: "it is not a file"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCertificateFile+1))
	switch {
	case err != nil:
		return nil, 0, &CertificateError{Path: path, Reason: "the file cannot be read"}
	case len(data) > maxCertificateFile:
		clear(data)
		return nil, 0, &CertificateError{Path: path, Reason: fmt.Sprintf("the file is larger than %d KiB", maxCertificateFile>>10)}
	}
	return data, info.Mode(), nil
}
