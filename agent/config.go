package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ConfigPaths says where the configuration is.
type ConfigPaths struct {
	Main     string // default /etc/mender/mender.conf
	Fallback string // default /var/lib/mender/mender.conf
	DataDir  string // default /var/lib/mender
	// Root is put before every absolute path that comes from a configuration file, from fw_env.config or from a
	// default, but not before the three above when they are given. A device that lives in a directory of another
	// machine is run this way.
	Root string
}

func (p ConfigPaths) dataDir() string {
	if p.DataDir == "" {
		return filepath.Join(p.Root, "/var/lib/mender")
	}
	return p.DataDir
}

// Config is the agent's whole configuration. Paths are ready to be opened (Root has been applied).
type Config struct {
	Root    string
	DataDir string

	Servers           []string
	ServerCertificate string
	TenantToken       string
	UpdatePoll        time.Duration
	InventoryPoll     time.Duration
	RetryPollInterval time.Duration // the longest wait after an error

	VerifyKeys    []string // files; an artifact must be signed by one of the keys in them
	AllowUnsigned bool     // the only way to run without VerifyKeys

	AuthPrivateKey   string
	DeviceTypeFile   string
	Identity         map[string]string // if set, instead of IdentityScript
	IdentityScript   string
	InventoryScripts string // directory

	Slots           map[SlotName]Slot
	BootEnvironment BootEnvironment
	// RebootCommand is run to reboot. Empty: the agent ends with ErrRebootNeeded instead.
	RebootCommand []string
}

// SlotName is "A" or "B".
type SlotName string

// The two slots.
const (
	SlotA SlotName = "A"
	SlotB SlotName = "B"
)

// Other is the slot that is not s.
func (s SlotName) Other() SlotName {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Slot is the place of one root file system: a block device, or a part of a device or of a regular file.
type Slot struct {
	Device   string `json:"Device"`
	Offset   int64  `json:"Offset"`
	Size     int64  `json:"Size"`     // 0: to the end of the device
	BootPart int    `json:"BootPart"` // value of mender_boot_part that boots it; 0: the number at the end of Device's name
}

// BootEnvironment says where the boot loader keeps its variables.
type BootEnvironment struct {
	Type   string `json:"Type"`   // u-boot (default) or grub
	Config string `json:"Config"` // u-boot: fw_env.config; grub: the directory that holds mender_grubenv1 and 2
}

// ConfigError is a configuration that the agent refuses to run with.
type ConfigError struct {
	Path   string // file, when one file is at fault
	Reason string
	Advice string
}

func (e *ConfigError) Error() string {
	if e.Path == "" {
		return "configuration: " + e.Reason
	}
	return "configuration " + e.Path + ": " + e.Reason
}

// Hint is what to do about it.
func (e *ConfigError) Hint() string { return e.Advice }

// Limits of what a configuration may hold.
const (
	maxConfigSize = 1 << 20
	maxSlots      = 2
	minInterval   = 50 * time.Millisecond
	maxInterval   = 365 * 24 * time.Hour
)

var defaultReboot = []string{"reboot"}

// own is the section "Twinkeel" of mender.conf: what the agent has beyond Mender's keys. Mender's clients ignore it.
const own = "twinkeel"

// ownKeys are the keys of that section; spelled as they are documented, compared without regard to case as Mender does.
var ownKeys = []string{
	"AllowUnsigned", "Slots", "BootEnvironment", "RebootCommand", "Identity", "IdentityScript", "InventoryScripts",
}

// together lists keys of which a file may set one. The one set in the main file also hides the other in the fallback
// file: a main file with ArtifactVerifyKeys must not be widened by the fallback's ArtifactVerifyKey.
var together = [][2]string{{"serverurl", "servers"}, {"artifactverifykey", "artifactverifykeys"}}

// LoadConfig reads both files, of which either may be missing, and lets the main file win key by key, as Mender does.
// Everything else that could drop a setting unseen is an error: broken JSON, a key that appears twice, a value of the
// wrong type. (mender-update 5.1 drops a whole file with a syntax error, and with it the verification key.)
func LoadConfig(p ConfigPaths) (*Config, error) {
	root := p.Root
	under := func(path string) string {
		if path == "" || root == "" || !filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(root, filepath.Join("/", path))
	}
	mainPath, mainGiven := p.Main, p.Main != ""
	if !mainGiven {
		mainPath = under("/etc/mender/mender.conf")
	}
	fallbackPath, fallbackGiven := p.Fallback, p.Fallback != ""
	if !fallbackGiven {
		fallbackPath = under("/var/lib/mender/mender.conf")
	}
	dataDir := p.dataDir()
	main, err := readConfigFile(mainPath, mainGiven)
	if err != nil {
		return nil, err
	}
	fallback, err := readConfigFile(fallbackPath, fallbackGiven)
	if err != nil {
		return nil, err
	}
	c, err := mergeConfig(main, fallback, under, dataDir)
	if err != nil {
		return nil, err
	}
	c.Root = root
	return c, nil
}

// configFile is one file, taken apart key by key. Keys are lower case.
type configFile struct {
	path   string
	top    map[string]json.RawMessage
	own    map[string]json.RawMessage
	absent bool
}

func readConfigFile(path string, mustExist bool) (*configFile, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !mustExist {
			return &configFile{path: path, absent: true}, nil
		}
		return nil, &ConfigError{Path: path, Reason: "cannot be read: " + reason(err)}
	}
	defer closeQuietly(f)
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, &ConfigError{Path: path, Reason: "cannot be read: " + reason(err)}
	}
	return parseConfigFile(path, data)
}

func parseConfigFile(path string, data []byte) (*configFile, error) {
	fail := func(format string, args ...any) error {
		return &ConfigError{Path: path, Reason: fmt.Sprintf(format, args...), Advice: "fix the file; no setting of it is used as it is"}
	}
	if len(data) > maxConfigSize {
		return nil, fail("larger than %d bytes", maxConfigSize)
	}
	top, err := objectKeys(data)
	if err != nil {
		return nil, fail("%v", err)
	}
	f := &configFile{path: path, top: top, own: map[string]json.RawMessage{}}
	if section, ok := top[own]; ok {
		if f.own, err = objectKeys(section); err != nil {
			return nil, fail("Twinkeel: %v", err)
		}
		for key := range f.own {
			if !containsFold(ownKeys, key) {
				return nil, fail("Twinkeel: unknown key %q; it has %s", key, strings.Join(ownKeys, ", "))
			}
		}
	}
	for _, key := range ownKeys {
		if _, ok := top[strings.ToLower(key)]; ok {
			return nil, fail("%s belongs inside the section \"Twinkeel\"", key)
		}
	}
	for _, pair := range together {
		_, one := top[pair[0]]
		_, two := top[pair[1]]
		if one && two {
			return nil, fail("%s and %s are both set; keep one", pair[0], pair[1])
		}
	}
	return f, nil
}

// objectKeys splits a JSON object into its members. encoding/json alone would take the last of two equal keys and
// match keys without regard to case one by one; a security setting must not hide behind either.
func objectKeys(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	start, err := dec.Token()
	if err != nil {
		return nil, jsonReason(err, dec.InputOffset())
	}
	if start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, jsonReason(err, dec.InputOffset())
		}
		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("invalid JSON near byte %d", dec.InputOffset())
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, jsonReason(err, dec.InputOffset())
		}
		lower := strings.ToLower(key)
		if _, twice := members[lower]; twice {
			return nil, fmt.Errorf("the key %q appears twice", key)
		}
		members[lower] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, jsonReason(err, dec.InputOffset())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("text after the JSON object, near byte %d", dec.InputOffset())
	}
	return members, nil
}

func jsonReason(err error, offset int64) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("invalid JSON at byte %d: %s", syntax.Offset, syntax.Error())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("invalid JSON: ends too early, at byte %d", offset)
	}
	return fmt.Errorf("invalid JSON near byte %d", offset)
}

// settings looks a key up in the main file, then in the fallback.
type settings struct {
	main, fallback *configFile
	err            error
}

// get decodes the value of a key into v and says whether the key was there. The first failure is kept in s.err.
func (s *settings) get(section, key string, v any) bool {
	lower := strings.ToLower(key)
	for _, f := range []*configFile{s.main, s.fallback} {
		members := f.top
		if section == own {
			members = f.own
		}
		raw, ok := members[lower]
		if !ok {
			if section == "" && hides(members, lower) {
				return false
			}
			continue
		}
		if bytes.Equal(raw, []byte("null")) {
			s.fail(f.path, fmt.Sprintf("%s is null; leave it out or give it a value", key))
			return false
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		if section == own {
			dec.DisallowUnknownFields()
		}
		if err := dec.Decode(v); err != nil {
			s.fail(f.path, fmt.Sprintf("%s: %s", key, decodeReason(err)))
			return false
		}
		return true
	}
	return false
}

func hides(members map[string]json.RawMessage, key string) bool {
	for _, pair := range together {
		for i := range pair {
			if pair[i] == key {
				_, ok := members[pair[1-i]]
				return ok
			}
		}
	}
	return false
}

func (s *settings) fail(path, why string) {
	if s.err == nil {
		s.err = &ConfigError{Path: path, Reason: why}
	}
}

func decodeReason(err error) string {
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) {
		want := map[string]string{"string": "text", "bool": "true or false", "float64": "a number", "int64": "a whole number", "int": "a whole number"}[typ.Type.String()]
		if want == "" {
			want = "another type of value"
		}
		if typ.Field != "" {
			return fmt.Sprintf("%s: must be %s, not %s", typ.Field, want, typ.Value)
		}
		return fmt.Sprintf("must be %s, not %s", want, typ.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// seconds reads an interval. Mender's clients take whole seconds; a fraction (0.5) is for demonstrations and tests.
func (s *settings) seconds(key string, preset time.Duration) time.Duration {
	var n float64
	if !s.get("", key, &n) {
		return preset
	}
	d := time.Duration(n * float64(time.Second))
	if math.IsNaN(n) || n < minInterval.Seconds() || n > maxInterval.Seconds() {
		s.fail(s.main.path, fmt.Sprintf("%s: %v is not between %v and %v seconds", key, n, minInterval.Seconds(), maxInterval.Seconds()))
	}
	return d
}

func mergeConfig(main, fallback *configFile, under func(string) string, dataDir string) (*Config, error) {
	s := &settings{main: main, fallback: fallback}
	c := &Config{
		DataDir:         dataDir,
		DeviceTypeFile:  filepath.Join(dataDir, "device_type"),
		AuthPrivateKey:  filepath.Join(dataDir, "mender-agent.pem"),
		RebootCommand:   defaultReboot,
		BootEnvironment: BootEnvironment{Type: "u-boot"},
	}

	var url string
	var servers []struct{ ServerURL string }
	if s.get("", "ServerURL", &url) && url != "" {
		c.Servers = []string{url}
	}
	if s.get("", "Servers", &servers) {
		for _, one := range servers {
			c.Servers = append(c.Servers, one.ServerURL)
		}
	}
	s.get("", "TenantToken", &c.TenantToken)
	if s.get("", "ServerCertificate", &c.ServerCertificate) {
		c.ServerCertificate = under(c.ServerCertificate)
	}
	c.UpdatePoll = s.seconds("UpdatePollIntervalSeconds", 30*time.Minute)
	c.InventoryPoll = s.seconds("InventoryPollIntervalSeconds", 8*time.Hour)
	c.RetryPollInterval = s.seconds("RetryPollIntervalSeconds", 5*time.Minute)

	var key string
	keys := []string{}
	if s.get("", "ArtifactVerifyKey", &key) {
		keys = []string{key}
		c.VerifyKeys = []string{}
	}
	if s.get("", "ArtifactVerifyKeys", &keys) {
		c.VerifyKeys = []string{}
	}
	for _, one := range keys {
		if one == "" {
			s.fail(main.path, "ArtifactVerifyKey is empty")
		}
		c.VerifyKeys = append(c.VerifyKeys, under(one))
	}

	var security struct{ AuthPrivateKey string }
	if s.get("", "Security", &security) && security.AuthPrivateKey != "" {
		c.AuthPrivateKey = under(security.AuthPrivateKey)
	}
	if s.get("", "DeviceTypeFile", &c.DeviceTypeFile) {
		c.DeviceTypeFile = under(c.DeviceTypeFile)
	}

	s.get(own, "AllowUnsigned", &c.AllowUnsigned)
	s.get(own, "Identity", &c.Identity)
	c.IdentityScript = under("/usr/share/mender/identity/mender-device-identity")
	if s.get(own, "IdentityScript", &c.IdentityScript) {
		c.IdentityScript = under(c.IdentityScript)
	}
	c.InventoryScripts = under("/usr/share/mender/inventory")
	if s.get(own, "InventoryScripts", &c.InventoryScripts) {
		c.InventoryScripts = under(c.InventoryScripts)
	}
	s.get(own, "BootEnvironment", &c.BootEnvironment)
	if c.BootEnvironment.Config == "" && c.BootEnvironment.Type == "u-boot" {
		c.BootEnvironment.Config = "/etc/fw_env.config"
	}
	c.BootEnvironment.Config = under(c.BootEnvironment.Config)
	var reboot rebootCommand
	if s.get(own, "RebootCommand", &reboot) {
		c.RebootCommand = reboot
	}
	s.slots(c, under)
	if s.err != nil {
		return nil, s.err
	}
	return c, nil
}

// rebootCommand is a list of words, or the text "exit".
type rebootCommand []string

func (r *rebootCommand) UnmarshalJSON(data []byte) error {
	var word string
	if json.Unmarshal(data, &word) == nil {
		if word != "exit" {
			return errors.New(`must be "exit" or a list such as ["reboot"]`)
		}
		*r = rebootCommand{}
		return nil
	}
	var words []string
	if json.Unmarshal(data, &words) != nil || len(words) == 0 || words[0] == "" {
		return errors.New(`must be "exit" or a list such as ["reboot"]`)
	}
	*r = words
	return nil
}

// slots reads RootfsPartA and B, Mender's short form, or our Slots.
func (s *settings) slots(c *Config, under func(string) string) {
	var long map[SlotName]Slot
	if s.get(own, "Slots", &long) {
		if len(long) > maxSlots {
			s.fail(s.main.path, "Slots: there are two, A and B")
			return
		}
		c.Slots = map[SlotName]Slot{}
		for name, slot := range long {
			if name != SlotA && name != SlotB {
				s.fail(s.main.path, fmt.Sprintf("Slots: unknown slot %q; they are A and B", name))
				return
			}
			slot.Device = under(slot.Device)
			c.Slots[name] = slot
		}
		return
	}
	var a, b string
	hasA, hasB := s.get("", "RootfsPartA", &a), s.get("", "RootfsPartB", &b)
	if hasA && hasB {
		c.Slots = map[SlotName]Slot{SlotA: {Device: under(a)}, SlotB: {Device: under(b)}}
	} else if hasA != hasB {
		s.fail(s.main.path, "RootfsPartA and RootfsPartB must be set together")
	}
}

// Validate checks what can be checked without opening anything. It is the place that decides whether the agent may run
// without verifying signatures: only when nobody configured a key and AllowUnsigned says so.
func (c *Config) Validate() error {
	switch {
	case len(c.VerifyKeys) == 0 && c.VerifyKeys != nil:
		return &ConfigError{Reason: "the list of verification keys is empty", Advice: "name at least one key in ArtifactVerifyKeys"}
	case len(c.VerifyKeys) == 0 && !c.AllowUnsigned:
		return &ConfigError{
			Reason: "no key to verify artifacts with",
			Advice: `set ArtifactVerifyKey to a PEM file with the public key, or "Twinkeel": {"AllowUnsigned": true} to accept anything`,
		}
	case len(c.VerifyKeys) > 0 && c.AllowUnsigned:
		return &ConfigError{Reason: "AllowUnsigned is true although verification keys are configured", Advice: "remove one of the two"}
	}
	for _, url := range c.Servers {
		if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") {
			return &ConfigError{Reason: fmt.Sprintf("the server URL %q does not begin with https:// or http://", url)}
		}
	}
	if strings.HasPrefix(c.AuthPrivateKey, "pkcs11:") {
		return &ConfigError{Reason: "Security.AuthPrivateKey: PKCS#11 keys are not supported", Advice: "name a PEM file"}
	}
	if c.BootEnvironment.Type != "u-boot" && c.BootEnvironment.Type != "grub" {
		return &ConfigError{Reason: fmt.Sprintf("BootEnvironment: unknown type %q; there are u-boot and grub", c.BootEnvironment.Type)}
	}
	if c.Slots == nil {
		return nil // only a device that never installs; slot() says so when it matters
	}
	for _, name := range []SlotName{SlotA, SlotB} {
		slot, ok := c.Slots[name]
		if !ok || slot.Device == "" {
			return &ConfigError{Reason: fmt.Sprintf("slot %s has no device", name)}
		}
		if slot.Offset < 0 || slot.Size < 0 || slot.BootPart < 0 || slot.Offset > math.MaxInt64-slot.Size {
			return &ConfigError{Reason: fmt.Sprintf("slot %s: offset, size and boot partition must not be negative", name)}
		}
	}
	a, b := c.Slots[SlotA], c.Slots[SlotB]
	if a.Device == b.Device && overlap(a, b) {
		return &ConfigError{Reason: fmt.Sprintf("the slots A and B overlap on %s", a.Device)}
	}
	return nil
}

func overlap(a, b Slot) bool {
	end := func(s Slot) int64 {
		if s.Size == 0 {
			return math.MaxInt64
		}
		return s.Offset + s.Size
	}
	return a.Offset < end(b) && b.Offset < end(a)
}

// slot is one slot with its boot partition known.
func (c *Config) slot(name SlotName) (Slot, error) {
	slot, ok := c.Slots[name]
	if !ok {
		return Slot{}, &ConfigError{Reason: "the slots are not known", Advice: "set RootfsPartA and RootfsPartB"}
	}
	if slot.BootPart != 0 {
		return slot, nil
	}
	device := slot.Device
	if resolved, err := filepath.EvalSymlinks(device); err == nil {
		device = resolved // /dev/disk/by-partlabel/… names no number
	}
	number, err := partitionNumber(device)
	if err != nil {
		return Slot{}, err
	}
	slot.BootPart = number
	return slot, nil
}

// partitionNumber is the number at the end of a partition's device name: 2 for /dev/mmcblk0p2 and for /dev/sda2.
func partitionNumber(device string) (int, error) {
	digits := device[len(strings.TrimRight(device, "0123456789")):]
	number, err := strconv.Atoi(digits)
	if err != nil || number == 0 || number > 1024 {
		return 0, &ConfigError{
			Reason: fmt.Sprintf("%s does not end in a partition number", device),
			Advice: "describe the slots in the section \"Twinkeel\" with Slots and BootPart",
		}
	}
	return number, nil
}

// deviceType reads the file with the one line device_type=NAME.
func (c *Config) deviceType() (string, error) {
	data, err := os.ReadFile(c.DeviceTypeFile)
	if err != nil {
		return "", withHint(fmt.Errorf("reading the device type: %s: %s", c.DeviceTypeFile, reason(err)),
			"the file must hold one line, device_type=NAME")
	}
	line := strings.TrimSpace(string(data))
	name, ok := strings.CutPrefix(line, "device_type=")
	name = strings.TrimSpace(name)
	if !ok || name == "" || strings.ContainsAny(name, "\n\r") {
		return "", withHint(fmt.Errorf("the device type in %s is not one line device_type=NAME", c.DeviceTypeFile),
			"the file must hold one line, device_type=NAME")
	}
	return name, nil
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, s) })
}

// reason is an operating system's error without the path, which the caller names itself.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
