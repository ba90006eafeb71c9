package build

import (
	"context"
	"os"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/pipeline"
)

// Files is the real file system for plans, which also knows the format of artifacts.
type Files struct{ pipeline.OS }

// ReadArtifact reads the head of an artifact, of old ones too. Nothing is verified, and the payload is not read.
func (Files) ReadArtifact(_ context.Context, path string) (*pipeline.ExistingArtifact, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	r, err := artifactfmt.NewReader(in, artifactfmt.ReadOptions{Legacy: true})
	if err != nil {
		return nil, err
	}
	info := r.Info()
	return &pipeline.ExistingArtifact{
		Name: info.Name, Group: info.Group, DeviceTypes: info.DeviceTypes, PayloadType: info.PayloadType,
		Provides: info.Provides, Depends: info.Depends, ClearsProvides: info.ClearsProvides, Signed: info.Signed,
	}, nil
}
