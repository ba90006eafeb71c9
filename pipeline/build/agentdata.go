package build

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/imaging"
	"github.com/twinkeel/twinkeel/internal/bootenv"
	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/signing"
)

// Places on the data partition, as the device sees them. They are Mender's, so that its tools find them too.
const (
	agentDir         = "mender"
	verifyKeyFile    = agentDir + "/artifact-verify-key.pem"
	deviceTypeFile   = agentDir + "/device_type"
	agentConfigFile  = agentDir + "/mender.conf"
	bootstrapFile    = agentDir + "/bootstrap.mender"
	fwEnvConfigFile  = "u-boot/fw_env.config"
	rootfsPayload    = "rootfs-image"
	bootEnvTypeUBoot = "u-boot"
	bootEnvTypeGRUB  = "grub"
	bootloaderEFI    = "grub-efi"
	bootloaderBIOS   = "grub-bios"
	grubEnvDir       = "grub-mender-grubenv" // on the boot partition; Mender's boot scripts know this name
)

// agentConfig is what the agent reads on a new device: Mender's keys, and a section of the agent's own that Mender's
// clients ignore.
type agentConfig struct {
	ServerURL          string    `json:"ServerURL,omitempty"`
	ServerCertificate  string    `json:"ServerCertificate,omitempty"`
	ArtifactVerifyKeys []string  `json:"ArtifactVerifyKeys"`
	DeviceTypeFile     string    `json:"DeviceTypeFile"`
	RootfsPartA        string    `json:"RootfsPartA"`
	RootfsPartB        string    `json:"RootfsPartB"`
	Twinkeel           agentKeys `json:"Twinkeel"`
}

type agentKeys struct {
	BootEnvironment *bootEnv `json:"BootEnvironment,omitempty"`
}

type bootEnv struct {
	Type   string `json:"Type"`
	Config string `json:"Config"`
}

// agentData makes the files of the data partition: who the device is, whom it trusts, where its slots and its
// bootloader environment are, and which release it was flashed with.
func (r *runner) agentData(ctx context.Context, im *pipeline.Image, m *imaging.Map) ([]imaging.TreeFile, error) {
	if im.Artifact == nil {
		return nil, nil
	}
	if im.Artifact.Signer == nil {
		return nil, &unsignedImageError{im}
	}
	signer, err := OpenSigner(ctx, im.Artifact.Signer)
	if err != nil {
		return nil, err
	}
	defer signing.Close(signer)
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	config, err := r.agentConfig(im, m)
	if err != nil {
		return nil, err
	}
	bootstrap, err := r.bootstrap(ctx, im.Artifact, signer)
	if err != nil {
		return nil, err
	}
	tree := []imaging.TreeFile{
		{Path: agentDir, Mode: os.ModeDir | 0o755},
		{Path: deviceTypeFile, Mode: 0o444, Data: []byte("device_type=" + im.DeviceType.Name + "\n")},
		{Path: agentConfigFile, Mode: 0o600, Data: config},
		{Path: verifyKeyFile, Mode: 0o444, Data: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})},
		{Path: bootstrapFile, Mode: 0o400, Data: bootstrap},
	}
	if im.Server != nil && im.Server.CACertificate != "" {
		ca, err := readLimited(im.Server.CACertificate, 1<<20)
		if err != nil {
			return nil, err
		}
		tree = append(tree, imaging.TreeFile{Path: serverCertificateFile, Mode: 0o444, Data: ca})
	}
	if copies := environmentCopies(im, m); len(copies) > 0 {
		tree = append(tree,
			imaging.TreeFile{Path: "u-boot", Mode: os.ModeDir | 0o755},
			imaging.TreeFile{Path: fwEnvConfigFile, Mode: 0o644, Data: bootenv.FormatFwEnvConfig(copies)})
	}
	return tree, nil
}

const serverCertificateFile = agentDir + "/server.crt"

func (r *runner) agentConfig(im *pipeline.Image, m *imaging.Map) ([]byte, error) {
	a, err := slotNumber(m, "a")
	if err != nil {
		return nil, err
	}
	b, err := slotNumber(m, "b")
	if err != nil {
		return nil, err
	}
	config := agentConfig{
		ArtifactVerifyKeys: []string{dataMount + "/" + verifyKeyFile},
		DeviceTypeFile:     dataMount + "/" + deviceTypeFile,
		RootfsPartA:        slotDevice(&im.DeviceType, a),
		RootfsPartB:        slotDevice(&im.DeviceType, b),
	}
	if im.Server != nil {
		config.ServerURL = im.Server.URL
		if im.Server.CACertificate != "" {
			config.ServerCertificate = dataMount + "/" + serverCertificateFile
		}
	}
	if im.DeviceType.Bootloader.Kind == bootEnvTypeUBoot {
		config.Twinkeel.BootEnvironment = &bootEnv{Type: bootEnvTypeUBoot, Config: dataMount + "/" + fwEnvConfigFile}
	}
	if boot := im.DeviceType.Bootloader; isGRUB(boot) {
		for _, p := range im.DeviceType.Layout.Partitions {
			if p.Name == boot.Partition {
				config.Twinkeel.BootEnvironment = &bootEnv{Type: bootEnvTypeGRUB, Config: path.Join(p.Mount, grubEnvDir)}
			}
		}
	}
	text, err := json.MarshalIndent(config, "", "  ")
	return append(text, '\n'), err
}

// bootstrap makes the empty artifact that tells a new device which release is in its slot A. What that release provides
// is read from the artifact itself, whose header has the payload's checksum.
func (r *runner) bootstrap(ctx context.Context, a *pipeline.Artifact, signer artifactfmt.Signer) ([]byte, error) {
	f, err := os.Open(a.Path)
	if err != nil {
		return nil, &missingArtifactError{a, err}
	}
	defer f.Close()
	reader, err := artifactfmt.NewReader(f, artifactfmt.ReadOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", relativeTo(r.plan.Dir, a.Path), err)
	}
	release := reader.Info()
	var out memoryOutput
	_, err = artifactfmt.Write(ctx, &out, &artifactfmt.Artifact{
		Name: release.Name, Group: release.Group, DeviceTypes: release.DeviceTypes,
		Provides: release.Provides, ClearsProvides: release.ClearsProvides,
		Compression: artifactfmt.CompressionNone, Signer: signer, Epoch: r.plan.Epoch,
	})
	if err != nil {
		return nil, fmt.Errorf("making the bootstrap artifact: %w", err)
	}
	return out.Bytes(), nil
}

// memoryOutput is a small artifact in memory, whose prefix is written last.
type memoryOutput struct{ bytes.Buffer }

func (m *memoryOutput) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset+int64(len(p)) > int64(m.Len()) {
		return 0, io.ErrShortWrite
	}
	return copy(m.Bytes()[offset:], p), nil
}

type unsignedImageError struct{ image *pipeline.Image }

func (e *unsignedImageError) Error() string {
	return fmt.Sprintf("%s has no signer, so the agent on this image would trust no key and refuse every update", e.image.Artifact.Address)
}

// Hint says what to change.
func (e *unsignedImageError) Hint() string {
	return "add `signer = signer.file.NAME` to " + e.image.Artifact.Address
}

type missingArtifactError struct {
	artifact *pipeline.Artifact
	err      error
}

func (e *missingArtifactError) Error() string {
	return fmt.Sprintf("%s is not built: %v", e.artifact.Address, e.err)
}

func (e *missingArtifactError) Unwrap() error { return e.err }

// Hint says how to build it.
func (e *missingArtifactError) Hint() string { return "twinkeel build '" + e.artifact.Address + "'" }
