package pipeline

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// artifactFS is a fakeFS that can read one artifact.
type artifactFS struct {
	fakeFS
	read *int
}

func (f artifactFS) ReadArtifact(_ context.Context, path string) (*ExistingArtifact, error) {
	*f.read++
	if path != "/p/good.ext4" {
		return nil, errors.New("not a Mender artifact")
	}
	return &ExistingArtifact{
		Name: "os-1", DeviceTypes: []string{"a", "b"}, PayloadType: "rootfs-image",
		Provides: map[string]string{"rootfs-image.version": "os-1"}, ClearsProvides: []string{"rootfs-image.*"}, Signed: true,
	}, nil
}

// TestFactFunctions evaluates functions of files, units and artifacts, offline and with files.
func TestFactFunctions(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"x" + suffixHCL: `
output "o" { value = mender::artifact("good.ext4").name }
`})
	p, diags := Load(LoadOptions{Dir: dir})
	p.at("/p")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	reads := 0
	world := artifactFS{world(), &reads}
	online, _ := p.Console(t.Context(), InspectOptions{FS: world})
	offline, _ := p.Console(t.Context(), InspectOptions{Offline: true})
	plain, _ := p.Console(t.Context(), InspectOptions{FS: world.fakeFS})
	const none = "(not known offline)"
	for _, c := range []struct{ expr, want, offline, problem string }{
		{expr: `mender::artifact("good.ext4").name`, want: `"os-1"`, offline: none},
		{expr: `mender::artifact("good.ext4").device_types`, want: `["a", "b"]`, offline: none},
		{expr: `mender::artifact("good.ext4").group == null`, want: `true`, offline: none},
		{expr: `mender::artifact("good.ext4").provides["rootfs-image.version"]`, want: `"os-1"`, offline: none},
		{expr: `mender::artifact("good.ext4").depends`, want: `{}`, offline: none},
		{expr: `mender::artifact("good.ext4").signed`, want: `true`, offline: none},
		{expr: `mender::artifact("good.ext4").size`, want: `62914560`, offline: none},
		{expr: `mender::artifact("good.ext4").sha256 == filesha256("good.ext4")`, want: `true`, offline: none},
		{expr: `mender::artifact("tree/file")`, problem: "tree/file: not a Mender artifact", offline: none},
		{expr: `mender::artifact("gone.mender")`, problem: "there is no gone.mender", offline: none},
		{expr: `filemd5("tree/file")`, want: `"9dd4e461268c8034f5c8564e155c67a6"`, offline: none},
		{expr: `filesha1("tree/file")`, want: `"11f6ad8ec52a2984abaafd7c3b516503785c2072"`, offline: none},
		{expr: `filesha512("tree/file") == sha512("x")`, want: `true`, offline: none},
		{expr: `filebase64sha256("tree/file") == base64sha256("x")`, want: `true`, offline: none},
		{expr: `filebase64sha512("tree/file") == base64sha512("x")`, want: `true`, offline: none},
		{expr: `filemd5("gone")`, problem: "there is no gone", offline: none},
		{expr: `human_bytes(1610612736)`, want: `"1.5GiB"`},
		{expr: `human_bytes(bytes("64MiB"))`, want: `"64MiB"`},
		{expr: `human_bytes(0)`, want: `"0 bytes"`},
		{expr: `human_bytes(-1)`, problem: "not negative"},
		{expr: `human_bytes(1.5)`, problem: "whole number"},
		{expr: `duration::seconds("1d12h")`, want: `129600`},
		{expr: `duration::seconds("500ms")`, want: `0.5`},
		{expr: `duration::seconds("soon")`, problem: "is not a duration"},
	} {
		shown, diags := online.Eval(c.expr)
		if c.problem != "" {
			if !diags.HasErrors() || !strings.Contains(diags[0].Detail, c.problem) {
				t.Errorf("%s: %q, %v; want a problem with %q", c.expr, shown.Text, diags, c.problem)
			}
		} else if diags.HasErrors() || shown.Text != c.want {
			t.Errorf("%s: %q, %v; want %q", c.expr, shown.Text, diags, c.want)
		}
		if shown, _ := offline.Eval(c.expr); c.offline != "" {
			if d := cmp.Diff(c.offline, shown.Text); d != "" {
				t.Errorf("%s offline: %s", c.expr, d)
			}
		}
	}
	if reads != 2 {
		t.Errorf("artifacts were read %d times; each file once is enough", reads)
	}
	if _, diags := plain.Eval(`mender::artifact("good.ext4")`); !diags.HasErrors() || !strings.Contains(diags[0].Detail, "cannot be read here") {
		t.Errorf("without the ability: %v", diags)
	}
}
