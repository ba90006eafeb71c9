package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/internal/durable"
)

// bootstrapName is an artifact without payload in the data directory that says what the image a device was flashed
// with provides.
const bootstrapName = "bootstrap.mender"

// unknownArtifact is the name of a system that nobody has named; Mender's clients say the same.
const unknownArtifact = "unknown"

func (i Installed) artifactName() string {
	if i.Name == "" {
		return unknownArtifact
	}
	return i.Name
}

// after is what will be installed once an artifact is committed. The rules are those of mender-update (context.cpp):
// without clears_provides all former provides go, with it those that match a pattern; then the new ones are added. The
// group survives unless a pattern matches it or a new one is given.
func (i Installed) after(info *artifactfmt.Info) Installed {
	out := Installed{Name: info.Name, Group: i.Group, Provides: map[string]string{}}
	if !info.NoClears {
		for key, value := range i.Provides {
			if !matchesAny(info.ClearsProvides, key) {
				out.Provides[key] = value
			}
		}
		if matchesAny(info.ClearsProvides, "artifact_group") {
			out.Group = ""
		}
	}
	for key, value := range info.Provides {
		out.Provides[key] = value
	}
	if info.Group != "" {
		out.Group = info.Group
	}
	return out
}

func matchesAny(patterns []string, key string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matchPattern(p, key) })
}

// matchPattern: * is any text, all else stands for itself, and the whole key must match.
func matchPattern(pattern, key string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == key
	}
	key, ok := strings.CutPrefix(key, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, rest, found := strings.Cut(key, part)
		if !found {
			return false
		}
		key = rest
	}
	return strings.HasSuffix(key, parts[last])
}

// checkFits says whether an artifact may be installed on this device in its present state.
func checkFits(info *artifactfmt.Info, deviceType string, installed Installed) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
	}
	if !slices.Contains(info.DeviceTypes, deviceType) {
		return refuse("it is for device type %s, this is a %s", strings.Join(info.DeviceTypes, ", "), deviceType)
	}
	if len(info.DependsNames) > 0 && !slices.Contains(info.DependsNames, installed.artifactName()) {
		return refuse("it needs artifact %s, but %s is installed", strings.Join(info.DependsNames, " or "), installed.artifactName())
	}
	if len(info.DependsGroups) > 0 && !slices.Contains(info.DependsGroups, installed.Group) {
		return refuse("it needs artifact group %s, but the group is %q", strings.Join(info.DependsGroups, " or "), installed.Group)
	}
	for key, want := range info.Depends {
		if have, ok := installed.Provides[key]; !ok {
			return refuse("it needs %s = %s, which the installed system does not provide", key, want)
		} else if have != want {
			return refuse("it needs %s = %s, but the installed system provides %s", key, want, have)
		}
	}
	return nil
}

// readOptions verify with our keys, if there are any. The limits bound what an artifact that nobody has signed can make
// the agent keep in memory; without state scripts a header has a few KiB.
func (a *Agent) readOptions() artifactfmt.ReadOptions {
	o := artifactfmt.ReadOptions{Limits: artifactfmt.Limits{Header: 1 << 20, JSON: 256 << 10, ManifestLength: 64 << 10}}
	if a.keys != nil { // else AllowUnsigned; see New
		o.Verifier = a.keys
	}
	return o
}

// adoptBootstrap takes over bootstrap.mender when nothing is known of the running system yet. Unlike mender-update it
// demands the signature that every other artifact needs: what a device believes to be decides what it will accept.
// A bootstrap artifact that is not acceptable is kept and does not stop the agent; the device then is "unknown", and
// can be updated.
func (a *Agent) adoptBootstrap(ctx context.Context, j *journal) error {
	path := filepath.Join(a.cfg.DataDir, bootstrapName)
	if j.record.Installed.Name == "" && j.record.State == Idle {
		installed, err := a.readBootstrap(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			a.log.Error("the bootstrap artifact is not used", "path", path, "error", err)
			return nil
		}
		r := j.record
		r.Installed = installed
		if err := j.write(r); err != nil {
			return err
		}
		a.log.Info("bootstrap artifact taken over", "artifact_name", installed.Name)
	}
	if _, err := os.Lstat(path); err != nil || j.record.Installed.Name == "" {
		return nil
	}
	return durable.Remove(path)
}

func (a *Agent) readBootstrap(ctx context.Context, path string) (Installed, error) {
	f, err := os.Open(path)
	if err != nil {
		return Installed{}, err
	}
	defer closeQuietly(f)
	r, err := artifactfmt.NewReader(contextReader{ctx, f}, a.readOptions())
	if err != nil {
		return Installed{}, err
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("it has a payload")
		}
		return Installed{}, err
	}
	info := r.Info()
	if info.PayloadType != "" {
		return Installed{}, fmt.Errorf("its payload type is %s", info.PayloadType)
	}
	deviceType, err := a.cfg.deviceType()
	if err != nil {
		return Installed{}, err
	}
	if err := checkFits(info, deviceType, Installed{}); err != nil {
		return Installed{}, err
	}
	return Installed{}.after(info), nil
}

// contextReader ends a long read of a file when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
