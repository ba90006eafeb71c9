// Package house checks the rules of the house that no linter knows: which room may import which, that every package
// says what it promises, and that every example is run.
package house

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/twinkeel/twinkeel"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports,Deps,GoFiles", module+"/...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// room is the part of the house that a package belongs to, longest prefix first.
func room(importPath string) string {
	rel := strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
	for _, r := range []string{"cmd", "cli", "pipeline/build", "pipeline", "artifactfmt/payload", "artifactfmt/sbom", "artifactfmt", "imaging/flash", "imaging", "signing/verify", "signing", "server", "agent", "internal", "test", "examples"} {
		if rel == r || strings.HasPrefix(rel, r+"/") {
			return r
		}
	}
	return rel
}

// mayImport says which rooms each room may import, beside itself.
var mayImport = map[string][]string{
	"cmd":            {"cli", "agent", "test", "signing"}, // test: the virtual device's command; signing: the helpers' protocol
	"cli":            {"pipeline", "pipeline/build", "server", "artifactfmt", "artifactfmt/payload", "artifactfmt/sbom", "imaging", "imaging/flash", "signing", "signing/verify", "internal"},
	"pipeline/build": {"pipeline", "server", "artifactfmt", "artifactfmt/payload", "artifactfmt/sbom", "imaging", "signing", "signing/verify", "internal"},
	"pipeline":       {"internal"},
	"server":         {"artifactfmt", "signing/verify", "internal"},
	"imaging":        {"internal"},
	"imaging/flash":  {"imaging", "signing/verify", "internal"}, // images are checked against signatures before they are written
	"signing":        {"signing/verify", "internal"},
	"signing/verify": {},
	"artifactfmt":    {},
	// What reads the host's files for artifacts; the agent must not.
	"artifactfmt/payload": {"artifactfmt", "internal"},
	"artifactfmt/sbom":    {"internal"},
	"agent":               {"artifactfmt", "signing/verify", "internal"},
	"internal":            {},
	"test":                {"agent", "server", "imaging", "artifactfmt", "artifactfmt/payload", "signing", "signing/verify", "internal"},
}

func TestArrowsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		from := room(p.ImportPath)
		allowed, known := mayImport[from]
		if !known {
			t.Errorf("%s is in no known room; add it to mayImport knowingly", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module+"/") {
				continue
			}
			if to := room(imported); to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: %s may import only %v", p.ImportPath, imported, from, allowed)
			}
		}
	}
}

// TestLanguageStaysInItsRoom: of the internal packages, pipeline itself uses only diag, and unpack to look at the beginning of
// compressed files, which has no effects either; HCL is known to pipeline, diag,
// and those who print its diagnostics.
func TestLanguageStaysInItsRoom(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			if p.ImportPath == module+"/pipeline" && strings.HasPrefix(imported, module) && imported != module+"/internal/diag" && imported != module+"/internal/unpack" {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
			if strings.HasPrefix(imported, "github.com/hashicorp/hcl/") {
				if r := room(p.ImportPath); r != "pipeline" && r != "cli" && p.ImportPath != module+"/internal/diag" {
					t.Errorf("%s imports HCL", p.ImportPath)
				}
			}
		}
	}
}

// TestArchivesStayOnHosts: a device unpacks artifacts and nothing else, and the library for archives would triple its agent.
func TestArchivesStayOnHosts(t *testing.T) {
	t.Parallel()
	hosts := []string{"cli", "pipeline", "pipeline/build", "imaging", "imaging/flash", "internal"}
	for _, p := range packages(t) {
		if strings.HasPrefix(p.ImportPath, module+"/cmd/twinkeel-agent") && slices.Contains(p.Deps, "github.com/mholt/archives") {
			t.Errorf("%s reads archives", p.ImportPath)
		}
		if slices.Contains(p.Imports, module+"/internal/unpack") && !slices.Contains(hosts, room(p.ImportPath)) {
			t.Errorf("%s imports internal/unpack; only %v may", p.ImportPath, hosts)
		}
		if slices.Contains(p.Imports, "github.com/mholt/archives") && p.ImportPath != module+"/internal/unpack" {
			t.Errorf("%s imports the library for archives; internal/unpack bounds what it does", p.ImportPath)
		}
	}
}

// TestServicesStayInTheirHelper: the clients of key management services weigh more than all of twinkeel, and every command would
// pay for them in memory.
func TestServicesStayInTheirHelper(t *testing.T) {
	t.Parallel()
	clients := []string{
		"github.com/sigstore/sigstore/pkg/signature/kms", "github.com/aws/", "github.com/Azure", "cloud.google.com/", "google.golang.org/",
		"github.com/googleapis/", "github.com/hashicorp/vault",
	}
	for _, p := range packages(t) {
		isHelper := p.ImportPath == module+"/cmd/twinkeel-kms"
		isClient := func(dep string) bool {
			return slices.ContainsFunc(clients, func(prefix string) bool { return strings.HasPrefix(dep, prefix) })
		}
		if i := slices.IndexFunc(p.Deps, isClient); i >= 0 != isHelper {
			if isHelper {
				t.Errorf("%s has no client of a service", p.ImportPath)
			} else {
				t.Errorf("%s depends on %s; only cmd/twinkeel-kms may", p.ImportPath, p.Deps[i])
			}
		}
	}
}

func TestEveryPackageSaysWhatItPromises(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		docs := 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc == nil {
				continue
			}
			docs++
			want := "Package " + f.Name.Name + " "
			if f.Name.Name == "main" {
				want = "Command " + filepath.Base(p.Dir) + " "
			}
			if !strings.HasPrefix(f.Doc.Text(), want) {
				t.Errorf("%s: the package comment begins %q, want %q", p.ImportPath, firstLine(f.Doc.Text()), want)
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package comments, want one", p.ImportPath, docs)
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// TestExamplesAreRun: every example is named by a script of the CLI's tests.
func TestExamplesAreRun(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob(filepath.Join(root(t), "cli/testdata/script/*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no CLI scripts found: %v", err)
	}
	var text strings.Builder
	for _, s := range scripts {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	examples, err := os.ReadDir(filepath.Join(root(t), "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range examples {
		if e.IsDir() && !strings.Contains(text.String(), "examples/"+e.Name()) {
			t.Errorf("examples/%s appears in no script of cli/testdata/script", e.Name())
		}
	}
}

// TestSeedsExist: a folder of seeds that is empty makes its test pass for nothing.
func TestSeedsExist(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "." {
			return filepath.SkipDir
		}
		if d.IsDir() && strings.Contains(path, "/testdata/") {
			entries, err := os.ReadDir(path)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				t.Errorf("%s is empty", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
