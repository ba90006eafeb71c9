package pipeline

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"

	"github.com/twinkeel/twinkeel/internal/diag"
)

var update = flag.Bool("update", false, "rewrite golden files")

func writeFile(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

// diagnose does with a directory what a command does, as far as it goes.
func diagnose(t testing.TB, dir string, o LoadOptions) (*Pipeline, *Plan, hcl.Diagnostics) {
	t.Helper()
	o.Dir, o.Version, o.Layouts = dir, "0.1.0-dev", testLayouts{}
	p, loadDiags := Load(o)
	p.at("/p")
	diags := slices.Concat(loadDiags, p.Validate())
	if diags.HasErrors() {
		diag.Sort(diags)
		return p, nil, diags
	}
	plan, planDiags := p.Plan(t.Context(), PlanOptions{FS: world()})
	return p, plan, slices.Concat(loadDiags, planDiags)
}

// TestErrors loads each file of testdata/errors and expects the messages that its comments announce, on their lines and no
// others. The text for people and the JSON for programs are kept beside the file and rewritten by -update.
func TestErrors(t *testing.T) {
	paths, err := filepath.Glob("testdata/errors/*" + suffixHCL)
	if err != nil || len(paths) < 80 {
		t.Fatalf("found %d cases: %v", len(paths), err)
	}
	for _, name := range paths {
		base := strings.TrimSuffix(filepath.Base(name), suffixHCL)
		t.Run(base, func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file := base + suffixHCL
			dir := write(t, map[string]string{file: string(src)})
			p, _, diags := diagnose(t, dir, LoadOptions{})

			var want, got []string
			for i, l := range strings.Split(string(src), "\n") {
				for _, kind := range []string{"ERROR", "WARNING"} {
					if _, summary, found := strings.Cut(l, "# "+kind+": "); found {
						want = append(want, fmt.Sprintf("%d %s: %s", i+1, kind, summary))
					}
				}
			}
			for _, d := range diags {
				kind, line := "ERROR", 0
				if d.Severity == hcl.DiagWarning {
					kind = "WARNING"
				}
				if d.Subject != nil {
					line = d.Subject.Start.Line
				}
				got = append(got, fmt.Sprintf("%d %s: %s", line, kind, d.Summary))
			}
			if len(want) == 0 {
				t.Fatal("the file announces nothing")
			}

			var text bytes.Buffer
			if err := diag.WriteText(&text, diags, p.Files(), diag.Options{}); err != nil {
				t.Fatal(err)
			}
			out := strings.ReplaceAll(text.String(), dir+"/", "")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("messages (-want +got):\n%s\n%s", d, out)
			}
			if strings.Contains(out, "hunter2") && !strings.Contains(string(src), `"hunter2`) {
				t.Errorf("a secret is shown:\n%s", out)
			}
			asJSON := strings.ReplaceAll(string(diag.JSON(diags, p.Files())), dir+"/", "")
			if strings.Contains(asJSON, "hunter2") && !strings.Contains(string(src), `"hunter2`) {
				t.Errorf("a secret is shown:\n%s", asJSON)
			}
			golden(t, strings.TrimSuffix(name, suffixHCL)+".txt", out)
			golden(t, strings.TrimSuffix(name, suffixHCL)+".json", asJSON)
		})
	}
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}
