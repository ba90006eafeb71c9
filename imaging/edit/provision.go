package edit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/imaging/inspect"
)

// The agent's files on the data partition, which is its data directory: agent/config.go and agent/key.go read them.
const (
	agentConfigFile = "mender/mender.conf"
	deviceKeyFile   = "mender/mender-agent.pem"
)

// deviceKeyPaths are the names of that key as a device sees them.
var deviceKeyPaths = []string{"/var/lib/mender/mender-agent.pem", "/data/mender/mender-agent.pem"}

// maxConfig bounds the mender.conf of an image.
const maxConfig = 1 << 20

// PartitionFile is a file for a partition, which is named as [inspect.FindIn] has it.
type PartitionFile struct {
	Partition string
	File
}

// Device is what the image of one device has of its own.
type Device struct {
	Output   string            // path of its image
	Identity map[string]string // that it tells the server
	NoKey    bool              // it makes its key by itself, on its first start
	Files    []PartitionFile
	// Variables of the boot loader's environment; empty: none.
	Variables Variables
}

// Provisioned is the image of a device as the manifest lists it.
type Provisioned struct {
	Image    string            `json:"image"` // its name in the manifest's directory
	Identity map[string]string `json:"identity"`
	// PublicKey is the PEM that the device presents to the server, Fingerprint the SHA-256 of its DER form.
	PublicKey   string `json:"public_key,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256,omitempty"`
	// Stale are signatures beside the image that are not for it.
	Stale []string `json:"-"`
}

// Provision makes the image of one device: a copy of the image at path with the device's identity and key on the partition
// that has the agent's directory. Only what differs is written. Nobody but its owner may read it, since it holds the key; the
// key is nowhere else.
func Provision(ctx context.Context, image string, d Device, o Options) (*Provisioned, error) {
	o.Output, o.Private = d.Output, true
	im, err := Open(ctx, image, o)
	if err != nil {
		return nil, err
	}
	defer im.Abort()
	p := &Provisioned{Image: filepath.Base(d.Output), Identity: d.Identity}
	if err := im.personalise(ctx, d, p); err != nil {
		return nil, err
	}
	if len(d.Variables.Set) > 0 {
		if _, err := im.SetEnvironment(ctx, d.Variables); err != nil {
			return nil, err
		}
	}
	done, err := im.Commit(ctx)
	if err != nil {
		return nil, err
	}
	p.Size, p.SHA256, p.Stale = done.Size, done.SHA256, done.Stale
	return p, nil
}

// personalise writes the device's files.
func (im *Image) personalise(ctx context.Context, d Device, p *Provisioned) error {
	agent, data, found := im.Disk.FindAgent()
	if !found {
		return refuse(im.source, "build it with an artifact in its image block: then the data partition has the agent's files",
			"no partition has a directory mender, which is the agent's")
	}
	if agent.DeviceKey && d.NoKey {
		return refuse(im.source, "take it out of the image: all copies would be one device to the server",
			"it has a device key already (/%s)", deviceKeyFile)
	}
	config, err := im.config(data, d)
	if err != nil {
		return err
	}
	byPartition := map[int][]File{}
	var order []imaging.Region
	add := func(r imaging.Region, f File) {
		if byPartition[r.Number] == nil {
			order = append(order, r)
		}
		byPartition[r.Number] = append(byPartition[r.Number], f)
	}
	add(data, config)
	if !d.NoKey {
		private, err := newDeviceKey(p)
		if err != nil {
			return err
		}
		add(data, File{Path: deviceKeyFile, Mode: 0o600, Data: private})
	}
	for _, f := range d.Files {
		r, err := im.Disk.Find(f.Partition)
		if err != nil {
			return err
		}
		add(r, f.File)
	}
	for _, r := range order {
		if err := im.WriteFiles(ctx, r, byPartition[r.Number]); err != nil {
			return err
		}
	}
	return nil
}

// config is the agent's configuration with the device's identity. A new one is for the agent's eyes alone, as it is in images that
// are built here.
func (im *Image) config(data imaging.Region, d Device) (f File, err error) {
	files, _, err := imaging.OpenFilesystem(im.Disk.Section(data), data.Size)
	if err != nil {
		return f, err
	}
	f.Path = agentConfigFile
	what := fmt.Sprintf("/%s of partition %s", agentConfigFile, inspect.Title(data))
	old := []byte("{}")
	info, err := fs.Stat(files, agentConfigFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Mode = 0o600
	case err != nil:
		return f, fmt.Errorf("%s: %w", what, plainCause(err))
	case info.Size() > maxConfig:
		return f, refuse(what, "", "it has more than %s", imaging.FormatSize(maxConfig))
	default: // also a directory, which cannot be read
		if old, err = fs.ReadFile(files, agentConfigFile); err != nil {
			return f, fmt.Errorf("%s: %w", what, plainCause(err))
		}
	}
	if f.Data, err = withIdentity(old, d.Identity); err != nil {
		return f, refuse(what, "correct it in the image", "it is not JSON as the agent reads it: %v", err)
	}
	if place := keyPlace(f.Data); place != "" && !d.NoKey {
		return f, refuse(what, "leave Security.AuthPrivateKey out, or let devices make their keys with --no-key",
			"it has the device's key in %s, where it cannot be put", place)
	}
	return f, nil
}

// keyPlace is where a configuration has the device's key, if not where the agent looks without one.
func keyPlace(config []byte) string {
	var c struct {
		Security struct{ AuthPrivateKey string }
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return "" // the agent says what is wrong with it
	}
	place := c.Security.AuthPrivateKey
	if slices.Contains(deviceKeyPaths, place) {
		return ""
	}
	return place
}

// newDeviceKey makes a key as the agent does on its first start, and notes its public half.
func newDeviceKey(p *Provisioned) ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	sum := sha256.Sum256(publicDER)
	p.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}))
	p.Fingerprint = hex.EncodeToString(sum[:])
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
