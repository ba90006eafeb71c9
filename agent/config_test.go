package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A configuration that is broken in any way must never mean "do not verify".
func TestConfigFailsClosed(t *testing.T) {
	t.Parallel()
	slots := `"RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p3"`
	for name, c := range map[string]struct {
		main, fallback string
		want           string // "" is accepted
	}{
		"a key":                          {`{"ArtifactVerifyKey": "/key.pem", ` + slots + `}`, `{}`, ""},
		"a key in the fallback":          {`{` + slots + `}`, `{"ArtifactVerifyKey": "/key.pem"}`, ""},
		"several keys":                   {`{"ArtifactVerifyKeys": ["/key.pem", "/key2.pem"]}`, `{}`, ""},
		"a key without regard to case":   {`{"artifactverifykey": "/key.pem"}`, `{}`, ""},
		"unsigned, said out loud":        {`{"Twinkeel": {"AllowUnsigned": true}}`, `{}`, ""},
		"keys that Mender knows, we not": {`{"ArtifactVerifyKey": "/key.pem", "UpdateControlMapExpirationTimeSeconds": 3, "DBus": {"Enabled": false}}`, `{}`, ""},

		"nothing":                       {`{}`, `{}`, "no key to verify"},
		"allow false":                   {`{"Twinkeel": {"AllowUnsigned": false}}`, `{}`, "no key to verify"},
		"allow as text":                 {`{"Twinkeel": {"AllowUnsigned": "true"}}`, `{}`, "must be true or false"},
		"allow as null":                 {`{"Twinkeel": {"AllowUnsigned": null}}`, `{}`, "null"},
		"allow outside its section":     {`{"AllowUnsigned": true}`, `{}`, "belongs inside"},
		"allow misspelled":              {`{"Twinkeel": {"AllowUnsinged": true}}`, `{}`, "unknown key"},
		"allow and a key":               {`{"Twinkeel": {"AllowUnsigned": true}}`, `{"ArtifactVerifyKey": "/key.pem"}`, "although verification keys"},
		"empty key":                     {`{"ArtifactVerifyKey": "", "Twinkeel": {"AllowUnsigned": true}}`, `{}`, "empty"},
		"null key":                      {`{"ArtifactVerifyKey": null, "Twinkeel": {"AllowUnsigned": true}}`, `{}`, "null"},
		"empty list":                    {`{"ArtifactVerifyKeys": []}`, `{}`, "list of verification keys is empty"},
		"empty list and allow":          {`{"ArtifactVerifyKeys": [], "Twinkeel": {"AllowUnsigned": true}}`, `{}`, "list of verification keys is empty"},
		"empty list hides the fallback": {`{"ArtifactVerifyKeys": []}`, `{"ArtifactVerifyKey": "/key.pem"}`, "list of verification keys is empty"},
		"an empty key in a list":        {`{"ArtifactVerifyKeys": ["/key.pem", ""]}`, `{}`, "empty"},
		"a list where one key belongs":  {`{"ArtifactVerifyKey": ["/key.pem"]}`, `{}`, "must be text"},
		"key and keys":                  {`{"ArtifactVerifyKey": "/key.pem", "ArtifactVerifyKeys": ["/key2.pem"]}`, `{}`, "both set"},
		"the same key twice":            {`{"ArtifactVerifyKey": "/key.pem", "artifactverifykey": "/key2.pem"}`, `{}`, "appears twice"},
		"missing key file":              {`{"ArtifactVerifyKey": "/missing.pem"}`, `{}`, "missing.pem"},
		"empty key file":                {`{"ArtifactVerifyKey": "/empty.pem"}`, `{}`, "empty.pem"},
		"one of two key files missing":  {`{"ArtifactVerifyKeys": ["/key.pem", "/missing.pem"]}`, `{}`, "missing.pem"},
		"key file is no key":            {`{"ArtifactVerifyKey": "/device_type"}`, `{}`, "device_type"},

		"syntax error":             {`{"ArtifactVerifyKey": "/key.pem",}`, `{}`, "invalid JSON"},
		"ends early":               {`{"ArtifactVerifyKey": "/key.pem"`, `{}`, "invalid JSON"},
		"text behind":              {`{"ArtifactVerifyKey": "/key.pem"} x`, `{}`, "after the JSON object"},
		"a second object":          {`{"ArtifactVerifyKey": "/key.pem"}{}`, `{}`, "after the JSON object"},
		"empty file":               {``, `{"ArtifactVerifyKey": "/key.pem"}`, "invalid JSON"},
		"a list":                   {`["ArtifactVerifyKey"]`, `{}`, "not a JSON object"},
		"syntax error in fallback": {`{"ArtifactVerifyKey": "/key.pem"}`, `{`, "invalid JSON"},
		"section is no object":     {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": []}`, `{}`, "not a JSON object"},
		"wrong type elsewhere":     {`{"ArtifactVerifyKey": "/key.pem", "UpdatePollIntervalSeconds": "often"}`, `{}`, "must be a number"},
		"interval too short":       {`{"ArtifactVerifyKey": "/key.pem", "UpdatePollIntervalSeconds": 0}`, `{}`, "not between"},
		"two kinds of servers":     {`{"ArtifactVerifyKey": "/key.pem", "ServerURL": "https://a", "Servers": [{"ServerURL": "https://b"}]}`, `{}`, "both set"},
		"server without scheme":    {`{"ArtifactVerifyKey": "/key.pem", "ServerURL": "example.com"}`, `{}`, "https://"},
		"one slot":                 {`{"ArtifactVerifyKey": "/key.pem", "RootfsPartA": "/dev/mmcblk0p2"}`, `{}`, "set together"},
		"slots overlap":            {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": {"Slots": {"A": {"Device": "/d", "Offset": 0, "Size": 10}, "B": {"Device": "/d", "Offset": 9, "Size": 10}}}}`, `{}`, "overlap"},
		"same device twice":        {`{"ArtifactVerifyKey": "/key.pem", "RootfsPartA": "/dev/mmcblk0p2", "RootfsPartB": "/dev/mmcblk0p2"}`, `{}`, "overlap"},
		"unknown slot":             {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": {"Slots": {"A": {"Device": "/d"}, "C": {"Device": "/e"}}}}`, `{}`, "unknown slot"},
		"unknown key of a slot":    {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": {"Slots": {"A": {"Path": "/d"}}}}`, `{}`, "unknown field"},
		"unknown boot loader":      {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": {"BootEnvironment": {"Type": "lilo"}}}`, `{}`, "unknown type"},
		"reboot command":           {`{"ArtifactVerifyKey": "/key.pem", "Twinkeel": {"RebootCommand": []}}`, `{}`, "exit"},
		"private key in hardware":  {`{"ArtifactVerifyKey": "/key.pem", "Security": {"AuthPrivateKey": "pkcs11:x"}}`, `{}`, "PKCS#11"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for file, content := range map[string]string{
				"etc/mender/mender.conf": c.main, "var/lib/mender/mender.conf": c.fallback, "device_type": "device_type=x\n",
				"key.pem": string(keys().public), "key2.pem": string(keys().public), "empty.pem": "",
			} {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := LoadConfig(ConfigPaths{Root: root})
			if err == nil {
				_, err = New(cfg, Options{})
			}
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && err == nil:
				t.Error("accepted")
			case c.want != "" && !strings.Contains(err.Error(), c.want):
				t.Errorf("the error is %q, want %q in it", err, c.want)
			}
		})
	}
}

func TestConfigMissingFiles(t *testing.T) {
	t.Parallel()
	if _, err := LoadConfig(ConfigPaths{Root: t.TempDir(), Main: "/nonexistent/mender.conf"}); err == nil {
		t.Error("a configuration that was asked for by name and is missing is accepted")
	}
	cfg, err := LoadConfig(ConfigPaths{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var ce *ConfigError
	if _, err := New(cfg, Options{}); !errors.As(err, &ce) || ce.Hint() == "" {
		t.Errorf("without configuration: %v", err)
	}
}

func TestConfigMerge(t *testing.T) {
	t.Parallel()
	parse := func(text string) *configFile {
		f, err := parseConfigFile("mender.conf", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	under := func(p string) string { return filepath.Join("/root", p) }
	c, err := mergeConfig(
		parse(`{"ArtifactVerifyKeys": ["/a.pem"], "UpdatePollIntervalSeconds": 0.5, "RootfsPartA": "/dev/sda2", "RootfsPartB": "/dev/sda3",
			"Twinkeel": {"RebootCommand": "exit"}}`),
		parse(`{"ArtifactVerifyKey": "/b.pem", "UpdatePollIntervalSeconds": 7, "InventoryPollIntervalSeconds": 9, "Servers": [{"ServerURL": "https://x"}],
			"Security": {"AuthPrivateKey": "/k.pem"}, "Twinkeel": {"RebootCommand": ["true"], "Identity": {"mac": "m"}}}`),
		under, "/data")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		DataDir: "/data", Servers: []string{"https://x"}, UpdatePoll: 500 * time.Millisecond, InventoryPoll: 9 * time.Second,
		RetryPollInterval: 5 * time.Minute, VerifyKeys: []string{"/root/a.pem"}, AuthPrivateKey: "/root/k.pem",
		DeviceTypeFile: "/data/device_type", Identity: map[string]string{"mac": "m"},
		IdentityScript: "/root/usr/share/mender/identity/mender-device-identity", InventoryScripts: "/root/usr/share/mender/inventory",
		Slots:           map[SlotName]Slot{SlotA: {Device: "/root/dev/sda2"}, SlotB: {Device: "/root/dev/sda3"}},
		BootEnvironment: BootEnvironment{Type: "u-boot", Config: "/root/etc/fw_env.config"}, RebootCommand: []string{},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func TestPartitionNumber(t *testing.T) {
	t.Parallel()
	for device, want := range map[string]int{
		"/dev/mmcblk0p2": 2, "/dev/sda3": 3, "/dev/nvme0n1p12": 12, "/dev/sda": 0, "/dev/disk/by-partlabel/rootfs": 0, "": 0, "/dev/sda0": 0,
	} {
		if got, err := partitionNumber(device); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", device, got, err)
		}
	}
}

func TestDeviceType(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"device_type=raspberrypi4": "raspberrypi4", "device_type=x\n": "x", "": "", "x": "", "device_type=": "", "device_type=a\ndevice_type=b": "",
	} {
		path := filepath.Join(t.TempDir(), "device_type")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := (&Config{DeviceTypeFile: path}).deviceType()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}

// Whatever the bytes: no panic, and nothing that could pass for "unsigned is fine" but AllowUnsigned itself.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{"ArtifactVerifyKey": "/a"}`, `{"ArtifactVerifyKeys": []}`, `{"Twinkeel": {"AllowUnsigned": true}}`, `{`, `[]`, `{} {}`,
		`{"Servers": [{"ServerURL": "https://x"}], "UpdatePollIntervalSeconds": 1e99}`, `{"RootfsPartA": "/dev/sda2", "RootfsPartB": "/dev/sda3"}`,
		`{"Twinkeel": {"Slots": {"A": {"Device": "/x", "Size": 9223372036854775807, "Offset": 1}}, "RebootCommand": "exit"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseConfigFile("x", data)
		if err != nil {
			var ce *ConfigError
			if !errors.As(err, &ce) {
				t.Errorf("error of type %T", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Error("accepted what is not JSON")
		}
		c, err := mergeConfig(file, &configFile{}, func(p string) string { return p }, "/data")
		if err != nil || c.Validate() != nil {
			return
		}
		if len(c.VerifyKeys) == 0 && !c.AllowUnsigned {
			t.Errorf("would run without verification: %s", data)
		}
	})
}
