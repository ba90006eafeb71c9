package artifactfmt

import (
	"bytes"
	"io"
	"testing"
)

// discard is an Output that keeps nothing.
type discard struct{}

func (discard) Write(p []byte) (int, error)            { return len(p), nil }
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// Run with -benchtime 1x on a quiet machine.
func BenchmarkWrite(b *testing.B) {
	content := sparseContent(256 << 20)
	for _, c := range []Compression{CompressionNone, Gzip, Zstd} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				a := rootfs(content)
				a.Compression = c
				if _, err := Write(b.Context(), discard{}, a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	content := sparseContent(256 << 20)
	for _, c := range []Compression{CompressionNone, Gzip, Zstd} {
		b.Run(string(c), func(b *testing.B) {
			a := rootfs(content)
			a.Compression = c
			artifact := write(b, a)
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Verify(b.Context(), io.MultiReader(bytes.NewReader(artifact)), ReadOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
