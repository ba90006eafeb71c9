package edit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/agent"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
)

func TestProvision(t *testing.T) {
	t.Parallel()
	path := board(t, nil)
	dir := t.TempDir()
	manifest, err := OpenManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, serial := range []string{"one", "two"} {
		p, err := Provision(t.Context(), path, Device{
			Output: filepath.Join(dir, serial+".img"), Identity: map[string]string{"serial": serial},
			Files:     []PartitionFile{{"boot", File{Path: "serial.txt", Data: []byte(serial)}}},
			Variables: set("serial#", serial),
		}, Options{Digest: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := manifest.Add(*p); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, serial+".img")
		sound(t, out)
		if sum := sha256.Sum256(readFile(t, out)); p.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the digest is another", serial)
		}
		if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", serial, info.Mode(), err)
		}
		if allocated(t, out) > allocated(t, path)+mib {
			t.Errorf("%s takes %d bytes, the image %d", serial, allocated(t, out), allocated(t, path))
		}
		public := deviceKeyOf(t, out)
		if public != p.PublicKey || seen[public] {
			t.Errorf("%s: the key in the image is not the one in the list, or that of another", serial)
		}
		seen[public] = true
		if e := environmentOf(t, out); e.Variables["serial#"] != serial {
			t.Errorf("%+v", e.Variables)
		}
		checkAgentReads(t, out, serial)
	}
	text := string(readFile(t, manifest.Path()))
	if strings.Contains(text, "PRIVATE") || strings.Count(text, "\n") != 2 {
		t.Errorf("%s", text)
	}
	if again, err := OpenManifest(dir); err != nil || len(again.lines) != 2 {
		t.Errorf("%v %v", again, err)
	}
}

// deviceKeyOf is the public half of the key in an image, which is readable for root alone.
func deviceKeyOf(t testing.TB, path string) string {
	t.Helper()
	d, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	inside, _, err := d.Filesystem("data")
	if err != nil {
		t.Fatal(err)
	}
	info, err := fs.Stat(inside, deviceKeyFile)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	data, err := fs.ReadFile(inside, deviceKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.(ed25519.PrivateKey).Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// checkAgentReads lets the agent read the configuration.
func checkAgentReads(t testing.TB, path, serial string) {
	t.Helper()
	d, err := inspect.Open(t.Context(), path, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	inside, _, err := d.Filesystem("data")
	if err != nil {
		t.Fatal(err)
	}
	text, err := fs.ReadFile(inside, agentConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "mender.conf")
	// It refuses to run without keys, which are not what this is about.
	text = []byte(strings.Replace(string(text), "{", `{"ArtifactVerifyKey": "/key.pem",`, 1))
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := agent.LoadConfig(agent.ConfigPaths{Main: conf, Fallback: conf, DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"serial": serial}, c.Identity); d != "" {
		t.Error(d)
	}
}

func TestProvisionWithoutConfiguration(t *testing.T) {
	t.Parallel()
	path := board(t, func(img *imaging.Image) {
		img.Contents["data"] = imaging.Content{Tree: []imaging.TreeFile{{Path: "mender/device_type", Data: []byte("device_type=board\n")}}}
	})
	out := filepath.Join(t.TempDir(), "x.img")
	p, err := Provision(t.Context(), path, Device{Output: out, Identity: map[string]string{"serial": "1"}, NoKey: true}, Options{})
	if err != nil || p.PublicKey != "" {
		t.Fatal(p, err)
	}
	d, err := inspect.Open(t.Context(), out, inspect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	inside, _, err := d.Filesystem("data")
	if err != nil {
		t.Fatal(err)
	}
	info, err := fs.Stat(inside, agentConfigFile)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	checkAgentReads(t, out, "1")
}

func TestRefusedProvisioning(t *testing.T) {
	t.Parallel()
	conf := func(text string) func(*imaging.Image) {
		return func(img *imaging.Image) {
			data := img.Contents["data"]
			data.Tree[0].Data = []byte(text)
		}
	}
	for name, c := range map[string]struct {
		change func(*imaging.Image)
		device Device
		want   string
	}{
		"no agent": {func(img *imaging.Image) {
			img.Contents["data"] = imaging.Content{Tree: []imaging.TreeFile{{Path: "x", Data: []byte("x")}}}
		}, Device{}, "no partition has a directory mender"},
		"no JSON":        {conf(`{"a":`), Device{}, "not JSON"},
		"a key twice":    {conf(`{"Twinkeel":{},"twinkeel":{}}`), Device{}, "twice"},
		"key elsewhere":  {conf(`{"Security":{"AuthPrivateKey":"/etc/key.pem"}}`), Device{}, "/etc/key.pem"},
		"no environment": {conf(`{}`), Device{Variables: Variables{Set: map[string]string{"=": "x"}}}, "must not contain '='"},
		"a key is shared": {func(img *imaging.Image) {
			d := img.Contents["data"]
			d.Tree = append(d.Tree, imaging.TreeFile{Path: deviceKeyFile, Data: []byte("x")})
			img.Contents["data"] = d
		}, Device{NoKey: true}, "has a device key already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, dir := board(t, c.change), t.TempDir()
			c.device.Output, c.device.Identity = filepath.Join(dir, "x.img"), map[string]string{"serial": "1"}
			_, err := Provision(t.Context(), path, c.device, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%v is left behind", left)
			}
		})
	}
}

func TestWithIdentity(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ config, want string }{
		"empty":       {`{}`, `{"Twinkeel":{"Identity":{"n":"1"}}}`},
		"order stays": {`{"b":1,"a":[2,{"z":null}],"c":"<&>"}`, `{"b":1,"a":[2,{"z":null}],"c":"<&>","Twinkeel":{"Identity":{"n":"1"}}}`},
		"replaced":    {`{"twinkeel":{"AllowUnsigned":true,"identity":{"m":"2"},"Slots":{}}}`, `{"twinkeel":{"AllowUnsigned":true,"identity":{"n":"1"},"Slots":{}}}`},
	} {
		got, err := withIdentity([]byte(c.config), map[string]string{"n": "1"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var compact strings.Builder
		for line := range strings.Lines(string(got)) {
			compact.WriteString(strings.TrimSpace(line))
		}
		if d := cmp.Diff(c.want, strings.ReplaceAll(compact.String(), `": `, `":`)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	for _, bad := range []string{``, `[]`, `{"a":1`, `{"a":1}x`, `{"Twinkeel":3}`, `{"a":1,"A":2}`} {
		if got, err := withIdentity([]byte(bad), nil); err == nil {
			t.Errorf("%s gives %s", bad, got)
		}
	}
}

func FuzzWithIdentity(f *testing.F) {
	f.Add([]byte(`{"ServerURL":"x","Twinkeel":{"Identity":{"a":"b"}}}`))
	f.Add([]byte(`{"a":[1,{"b":null}],"\u0041":2}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		out, err := withIdentity(config, map[string]string{"serial": "1"})
		if err != nil {
			return
		}
		var got struct {
			Twinkeel struct{ Identity map[string]string }
		}
		if err := json.Unmarshal(out, &got); err == nil && got.Twinkeel.Identity["serial"] != "1" {
			t.Fatalf("%q gives %q", config, out)
		}
		again, err := withIdentity(out, map[string]string{"serial": "1"})
		if err != nil || string(again) != string(out) {
			t.Fatalf("%q is not stable: %q, %v", out, again, err)
		}
	})
}
