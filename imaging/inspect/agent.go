package inspect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
)

// Agent is what the data partition says to the agent.
type Agent struct {
	Partition  string   `json:"partition"` // where it was found
	DeviceType string   `json:"device_type,omitempty"`
	Servers    []string `json:"servers,omitempty"`
	SlotA      string   `json:"slot_a,omitempty"` // device
	SlotB      string   `json:"slot_b,omitempty"`
	VerifyKeys []string `json:"verify_keys,omitempty"`
	Identity   bool     `json:"identity"`   // the configuration has one
	DeviceKey  bool     `json:"device_key"` // a key of the device itself is there

	// Bootstrap is the artifact that says which release is in slot A; nil when there is none.
	Bootstrap []byte `json:"-"`
	files     fs.FS
}

// agentDir is the agent's directory on the data partition. /data is where a device has that partition.
const (
	agentDir  = "mender"
	dataMount = "/data/"
	maxConfig = 1 << 20
)

// findAgent looks for the partition that has the agent's directory.
func (d *Disk) findAgent() (*Agent, imaging.Region) {
	for _, p := range d.partitions() {
		if p.Slot != "" {
			continue
		}
		files, _, err := imaging.OpenFilesystem(d.Section(p), p.Size)
		if err != nil {
			continue
		}
		if info, err := fs.Stat(files, agentDir); err == nil && info.IsDir() {
			return &Agent{Partition: Title(p), files: files}, p
		}
	}
	return nil, imaging.Region{}
}

// FindAgent looks for the partition that has the agent's directory, and names the slots by the agent's configuration where the
// table's names do not.
func (d *Disk) FindAgent() (agent *Agent, data imaging.Region, found bool) {
	agent, data = d.findAgent()
	if agent == nil {
		return nil, data, false
	}
	agent.check(d.Map) // what is wrong is for Verify to say
	agent.markSlots(d.Map)
	return agent, data, true
}

// agentConfig is what of mender.conf is looked at.
type agentConfig struct {
	ServerURL          string
	Servers            []struct{ ServerURL string }
	ArtifactVerifyKey  string
	ArtifactVerifyKeys []string
	RootfsPartA        string
	RootfsPartB        string
	Twinkeel           struct {
		AllowUnsigned bool
		Identity      map[string]string
	}
}

// check reads the agent's files and says what is wrong with them.
func (a *Agent) check(m *imaging.Map) []Finding {
	var out []Finding
	add := func(code, severity, file, format string, args ...any) {
		out = append(out, Finding{Code: code, Severity: severity, Place: "/" + file + " of partition " + a.Partition, Text: fmt.Sprintf(format, args...)})
	}
	conf := path.Join(agentDir, "mender.conf")
	var c agentConfig
	text, err := readSmall(a.files, conf, maxConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		add(CodeAgentConfig, SeverityWarning, conf, "it is not there; the agent then goes by /etc/mender/mender.conf of its slot alone")
	case err != nil:
		add(CodeAgentConfig, SeverityError, conf, "%v", plainReason(err))
	default:
		if err := json.Unmarshal(text, &c); err != nil {
			add(CodeAgentConfig, SeverityError, conf, "it is not JSON as the agent reads it: %s", jsonReason(err))
		}
	}
	a.fill(c)
	for _, slot := range []struct{ name, device string }{{"RootfsPartA", c.RootfsPartA}, {"RootfsPartB", c.RootfsPartB}} {
		if match := onPartition.FindStringSubmatch(slot.device); match != nil {
			if n, err := strconv.Atoi(match[1]); err == nil {
				if _, ok := m.Partition(n); !ok {
					add(CodeAgentConfig, SeverityError, conf, "%s is %s, but the disk has no partition %d", slot.name, slot.device, n)
				}
			}
		}
	}
	if c.RootfsPartA != "" && c.RootfsPartA == c.RootfsPartB {
		add(CodeAgentConfig, SeverityError, conf, "both slots are %s", c.RootfsPartA)
	}
	for _, key := range a.VerifyKeys {
		inside, ok := strings.CutPrefix(path.Clean(key), dataMount)
		if !ok {
			continue // in a slot, which may bring its own
		}
		if text, err := readSmall(a.files, inside, maxConfig); err != nil || !strings.Contains(string(text), "-----BEGIN ") {
			add(CodeAgentKey, SeverityError, inside, "the agent shall trust this key, but it is not there or no PEM file")
		}
	}
	a.checkDeviceType(add)
	a.Bootstrap, _ = readSmall(a.files, path.Join(agentDir, "bootstrap.mender"), maxConfig)
	_, err = fs.Stat(a.files, path.Join(agentDir, "mender-agent.pem"))
	a.DeviceKey = err == nil
	return out
}

func (a *Agent) fill(c agentConfig) {
	a.SlotA, a.SlotB, a.Identity = c.RootfsPartA, c.RootfsPartB, len(c.Twinkeel.Identity) > 0
	if c.ServerURL != "" {
		a.Servers = append(a.Servers, c.ServerURL)
	}
	for _, s := range c.Servers {
		a.Servers = append(a.Servers, s.ServerURL)
	}
	a.VerifyKeys = c.ArtifactVerifyKeys
	if c.ArtifactVerifyKey != "" {
		a.VerifyKeys = append(a.VerifyKeys, c.ArtifactVerifyKey)
	}
}

func (a *Agent) checkDeviceType(add func(code, severity, file, format string, args ...any)) {
	file := path.Join(agentDir, "device_type")
	text, err := readSmall(a.files, file, 64<<10)
	if err != nil {
		add(CodeAgentDevice, SeverityError, file, "%v; the agent does not start without it", plainReason(err))
		return
	}
	name, ok := strings.CutPrefix(strings.TrimSuffix(string(text), "\n"), "device_type=")
	if !ok || name == "" || strings.ContainsAny(name, "\n\x00") {
		add(CodeAgentDevice, SeverityError, file, "it is not the one line device_type=NAME")
		return
	}
	a.DeviceType = name
}

// jsonReason drops what only a Go programmer understands.
func jsonReason(err error) string {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("a mistake at byte %d", syntax.Offset)
	case errors.As(err, &typ):
		return fmt.Sprintf("%s has a %s", typ.Field, typ.Value)
	}
	return err.Error()
}

// markSlots names the slots that the table's names do not tell, by the agent's configuration.
func (a *Agent) markSlots(m *imaging.Map) {
	for _, r := range m.Regions {
		if r.Slot != "" {
			return
		}
	}
	for slot, device := range map[string]string{"a": a.SlotA, "b": a.SlotB} {
		match := onPartition.FindStringSubmatch(device)
		if match == nil {
			continue
		}
		for i := range m.Regions {
			if r := &m.Regions[i]; r.Kind == imaging.KindPartition && strconv.Itoa(r.Number) == match[1] {
				r.Slot = slot
			}
		}
	}
}

// Slot is what a root file system says of itself.
type Slot struct {
	Release string `json:"release,omitempty"` // artifact_name of /etc/mender/artifact_info
	OS      string `json:"os,omitempty"`      // PRETTY_NAME of /etc/os-release
}

// slotContent looks into a root file system. Neither file is in every system.
func slotContent(files fs.FS) (s Slot, hasInit bool) {
	if text, err := readSmall(files, "etc/mender/artifact_info", maxConfig); err == nil {
		s.Release = lineValue(string(text), "artifact_name")
	}
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, err := readSmall(files, name, maxConfig); err == nil && s.OS == "" {
			s.OS = strings.Trim(lineValue(string(text), "PRETTY_NAME"), `"'`)
		}
	}
	for _, name := range []string{"sbin", "bin", "usr", "etc", "init", "lib"} {
		if _, err := fs.Stat(files, name); err == nil {
			return s, true
		}
	}
	return s, false
}

func lineValue(text, name string) string {
	for _, line := range strings.Split(text, "\n") {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
