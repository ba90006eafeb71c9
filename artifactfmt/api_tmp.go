package artifactfmt

import (
	"context"
	"io"
)

// Write writes an artifact. It reads each input once and writes the output once; see docs/artifact-format.md.
func Write(ctx context.Context, out Output, a *Artifact) (*Info, error) { return nil, ErrTruncated }

// Limits bound what reading an artifact may cost. Zero values mean the defaults.
type Limits struct{}

// ReadOptions say how to read. With Verifier set an unsigned artifact is ErrUnsigned and a bad signature ErrSignature, both before
// anything else is trusted.
type ReadOptions struct {
	Verifier Verifier
	Limits   Limits
}

// Reader reads an artifact as a stream.
type Reader struct{}

// NewReader reads up to the payload and checks version, manifest, signature and header.
func NewReader(r io.Reader, o ReadOptions) (*Reader, error) { return nil, ErrTruncated }

// Info describes the artifact as far as it has been read.
func (r *Reader) Info() *Info { return nil }

// Scripts returns the state scripts.
func (r *Reader) Scripts() []Script { return nil }

// Next returns the next file of the payload; io.EOF when all of the artifact is read and every line of the manifest was met.
func (r *Reader) Next() (*PayloadFile, error) { return nil, ErrTruncated }

// PayloadFile is a file of the payload. Read returns *ChecksumError instead of io.EOF when the content differs.
type PayloadFile struct {
	Name   string
	Size   int64
	SHA256 string // what the manifest says
}

func (f *PayloadFile) Read(p []byte) (int, error) { return 0, ErrTruncated }

// Verify reads a whole artifact as a device would and checks everything.
func Verify(ctx context.Context, r io.Reader, o ReadOptions) (*Info, error) { return nil, ErrTruncated }

// Validate is Verify, and demands that every Mender reader accepts the artifact.
func Validate(ctx context.Context, r io.Reader, o ReadOptions) (*Info, error) { return nil, ErrTruncated }
