package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/internal/version"
)

const (
	scriptTimeout   = 30 * time.Second
	maxScriptOutput = 256 << 10
)

// identity is the JSON that tells this device from all others: the configured one, the identity script's, or as in
// Mender's own script the MAC address of the first network interface.
func (a *Agent) identity(ctx context.Context) (string, error) {
	if len(a.cfg.Identity) > 0 {
		data, err := json.Marshal(a.cfg.Identity)
		return string(data), err
	}
	values, err := runScript(ctx, a.cfg.IdentityScript)
	if errors.Is(err, fs.ErrNotExist) {
		mac, err := firstMAC(filepath.Join(a.cfg.Root, "/sys/class/net"))
		if err != nil {
			return "", err
		}
		values = []keyValues{{"mac", []string{mac}}}
	} else if err != nil {
		return "", fmt.Errorf("finding the device's identity: %w", err)
	}
	if len(values) == 0 {
		return "", fmt.Errorf("finding the device's identity: %s printed none", a.cfg.IdentityScript)
	}
	id := map[string]any{}
	for _, v := range values {
		if id[v.key] = v.values; len(v.values) == 1 {
			id[v.key] = v.values[0]
		}
	}
	data, err := json.Marshal(id) // sorts the keys
	return string(data), err
}

// firstMAC finds the Ethernet interface with the lowest index.
func firstMAC(dir string) (string, error) {
	interfaces, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("finding the device's identity: %s: %s", dir, reason(err))
	}
	const ethernet = "1" // ARPHRD_ETHER
	best, mac := 0, ""
	for _, one := range interfaces {
		read := func(name string) string {
			data, _ := os.ReadFile(filepath.Join(dir, one.Name(), name))
			return strings.TrimSpace(string(data))
		}
		index, err := strconv.Atoi(read("ifindex"))
		address := read("address")
		if err != nil || read("type") != ethernet || address == "" || strings.Trim(address, "0:") == "" {
			continue
		}
		if mac == "" || index < best {
			best, mac = index, address
		}
	}
	if mac == "" {
		return "", withHint(errors.New("finding the device's identity: no network interface has a MAC address"),
			"provide /usr/share/mender/identity/mender-device-identity, or Identity in the section \"Twinkeel\"")
	}
	return mac, nil
}

// keyValues is a key with the values that a script printed for it.
type keyValues struct {
	key    string
	values []string
}

// runScript runs a program that prints key=value lines. A repeated key has several values.
func runScript(ctx context.Context, path string) ([]keyValues, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, scriptTimeout)
	defer cancel()
	var out limitedBuffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parseKeyValues(out.Bytes()), nil
}

func parseKeyValues(data []byte) []keyValues {
	var out []keyValues
	place := map[string]int{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			continue
		}
		i, seen := place[key]
		if !seen {
			i, place[key] = len(out), len(out)
			out = append(out, keyValues{key: key})
		}
		out[i].values = append(out[i].values, strings.ToValidUTF8(value, "?"))
	}
	return out
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := maxScriptOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// inventory is what the server shows of the device. What the scripts say wins over what the agent knows by itself.
func (a *Agent) inventory(ctx context.Context, deviceType string, installed Installed) []menderapi.Attribute {
	values := map[string][]string{
		"device_type":            {deviceType},
		"artifact_name":          {installed.artifactName()},
		"twinkeel_agent_version": {version.Version},
		"cpu_architecture":       {runtime.GOARCH},
	}
	order := []string{"device_type", "artifact_name", "twinkeel_agent_version", "cpu_architecture"}
	set := func(key string, v ...string) {
		if _, ok := values[key]; !ok {
			order = append(order, key)
		}
		values[key] = v
	}
	if installed.Group != "" {
		set("artifact_group", installed.Group)
	}
	if slot, err := a.sys.RunningSlot(); err == nil {
		set("active_slot", string(slot))
	}
	if name, err := os.Hostname(); err == nil && a.cfg.Root == "" {
		set("hostname", name)
	}
	scripts, _ := filepath.Glob(filepath.Join(a.cfg.InventoryScripts, "mender-inventory-*"))
	for _, script := range scripts {
		found, err := runScript(ctx, script)
		if err != nil {
			a.log.Warn("an inventory script failed", "error", err)
			continue
		}
		for _, kv := range found {
			set(kv.key, kv.values...)
		}
	}
	var out []menderapi.Attribute
	for _, key := range order {
		var value any = values[key]
		if len(values[key]) == 1 {
			value = values[key][0]
		}
		raw, err := json.Marshal(value)
		if err == nil {
			out = append(out, menderapi.Attribute{Name: key, Value: raw})
		}
	}
	return out
}

var _ io.Writer = (*limitedBuffer)(nil)
