package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// FuzzPipeline feeds anything as a file, in both syntaxes: nothing panics or ends the process, and nothing takes more than
// a second for each 64 KiB.
func FuzzPipeline(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*/*" + suffixHCL)
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		src, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, false)
	}
	f.Add([]byte(jsonPipeline), true)
	f.Add([]byte(manyArtifacts(60)+"locals {\nx = <<E\na {\n}\nE\n}\n/*\n}\n*/\n"), false) // read in pieces
	f.Add([]byte(several), false)
	for _, sources := range []map[string]string{hostile(), multiplying()} {
		for _, s := range sources {
			if len(s) < 1<<16 {
				f.Add([]byte(s), false)
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, asJSON bool) {
		if len(src) > 1<<16 {
			t.Skip()
		}
		name := "x" + suffixHCL
		if asJSON {
			name = "x" + suffixJSON
		}
		// A second is meant, on a machine that does nothing else. An input that hangs must fail and not stop the fuzzer.
		watchdog := time.AfterFunc(10*time.Second, func() { panic(fmt.Sprintf("hangs: %q", src)) })
		defer watchdog.Stop()
		exercise(t, name, src)
	})
}

func exercise(t testing.TB, name string, src []byte) {
	if plainlyShallow(src) && checkLexed(src, name).HasErrors() {
		t.Errorf("the short way accepts what the lexer refuses: %q", src)
	}
	dir := write(t, map[string]string{name: string(src)})
	p, _, diags := diagnose(t, dir, LoadOptions{})
	if err := diag.WriteText(io.Discard, diags, p.Files(), diag.Options{}); err != nil {
		t.Error(err)
	}
	diag.JSON(diags, p.Files())
	if out, fmtDiags := Format(src, name); !fmtDiags.HasErrors() {
		again, againDiags := Format(out, name)
		if againDiags.HasErrors() || !bytes.Equal(out, again) {
			t.Errorf("formatting is not idempotent for %q:\n%q\n%q", src, out, again)
		}
		if whole := hclwrite.Format(bytes.TrimPrefix(src, byteOrderMark)); !isJSON(name) && !bytes.Equal(out, whole) {
			t.Errorf("formatting in pieces differs for %q:\n%q\n%q", src, out, whole)
		}
	}
	_, _ = p.Outputs(t.Context(), OutputOptions{FS: world()})
}

// hostile are sources that end processes which trust HCL's parser.
func hostile() map[string]string {
	rep := strings.Repeat
	return map[string]string{
		"parentheses":    "locals { a = " + rep("(", 100_000),
		"brackets":       "locals { a = " + rep("[", 100_000),
		"interpolations": "locals { a = " + rep(`"${`, 100_000),
		"blocks":         rep("a {\n", 100_000),
		"not":            "locals { a = " + rep("!", 300_000) + "true }",
		"minus":          "locals { a = " + rep("-", 300_000) + "1 }",
		"ternary":        "locals { a = " + rep("true ? 1 : ", 100_000) + "1 }",
		"sum":            "locals { a = " + rep("1+", 200_000) + "1 }",
		"and":            "locals { a = " + rep("true&&", 100_000) + "true }",
		"index":          "locals { a = x" + rep("[0+0]", 30_000) + " }",
		"splat":          "locals { a = x" + rep("[*]", 200_000) + " }",
		"attributes":     "locals { a = x" + rep(".a", 100_000) + " }",
		"calls":          "locals { a = " + rep("abs(", 100_000) + "1" + rep(")", 100_000) + " }",
		"directives":     "locals { a = \"" + rep("%{ if true }", 50_000) + "\" }",
		"heredoc":        "locals {\n a = <<E\n" + rep("%{ for x in [1] }", 50_000) + "\nE\n}",
		"for":            "locals { a = " + rep("[for x in [1]: ", 50_000) + "1" + rep("]", 50_000) + " }",
		"objects":        "locals { a = " + rep("{a=", 100_000) + "1" + rep("}", 100_000) + " }",
		"labels":         "artifact " + rep("\"a\" ", 30_000) + "{}",
		"comment":        "/*" + rep("*", 200_000),
		"newlines":       rep("\n", 100_000),
		"errors":         rep("x y\n", 30_000),
		"tries":          "locals { a = " + rep("try(abs(\"x\"), ", 100) + "1" + rep(")", 100) + " }",
		"failing tries":  "locals { a = " + rep("try(abs(\"x\"), ", 100) + "abs(\"x\")" + rep(")", 100) + " }",
		"yaml brackets":  "locals { a = yamldecode(\"" + rep("[", 100_000) + "\") }",
		"arguments":      "locals { a = coalesce(" + rep("null, ", 20_000) + "1) }",
		"infinity":       "locals { a = jsondecode(\"1e999999999\") }",
		"nested tuples": "locals {\na0=1\n" + func() string {
			var b strings.Builder
			for i := 1; i < 4000; i++ {
				fmt.Fprintf(&b, "a%d=[local.a%d]\n", i, i-1)
			}
			return b.String()
		}() + "}",
	}
}

// TestHostile runs what would end the process or stall it.
func TestHostile(t *testing.T) {
	for name, src := range hostile() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			exercise(t, "x"+suffixHCL, []byte(src))
			if took, limit := time.Since(began), time.Duration(2+len(src)>>16)*5*time.Second; took > limit {
				t.Errorf("took %v", took)
			}
		})
	}
	for name, src := range map[string]string{
		"arrays":  `{"locals":{"a":` + strings.Repeat("[", 300_000),
		"objects": `{"locals":` + strings.Repeat(`{"a":`, 300_000),
		"strings": `{"locals":{"a":"` + strings.Repeat("${[", 100_000) + `"}}`,
		"open":    `{"locals":{"a":"`,
		"number":  `{"locals":{"a":1e999999999}}`,
		"loops":   `{"locals":{"a":{"b":["${[for a in range(1000): [for b in range(1000): [for c in range(1000): 1]]]}"]}}}`,
		"key":     `{"locals":{"a":{"${join(\"\", [for a in range(1000): join(\"\", [for b in range(1000): join(\"\", [for c in range(1000): \"\"])])])}":1}}}`,
	} {
		t.Run("json "+name, func(t *testing.T) {
			exercise(t, "x"+suffixJSON, []byte(src))
		})
	}
}

// TestPlainlyShallow: the short way knows plain sources, and doubts where it must.
func TestPlainlyShallow(t *testing.T) {
	for src, want := range map[string]bool{
		manyArtifacts(10): true, source(t, fleet): false, // it has a list over several levels in one line
		"a = \"${var.b}-c\" # (\n": true, "a = \"x\" // {{{\n": true, "a {\n}\r\n": true,
		"a = \"${b(1)}\"\n": false, "a = \"\\\"{\"\n": false, "a = <<E\nE\n": false, "/* { */": false, "a = (}\n": false,
		"a = {\n": false, "a = \"$${\"\n": false, "a = 1e9\n": false, "# \r {\n": false, "a = \"x\n": false, "a = \"%{ if b }\"\n": false,
		"a = " + strings.Repeat("!", 50) + "b\n": false, "# é\n": false,
		"locals {\n" + strings.Repeat("a {\n", 60) + strings.Repeat("}\n", 61): false,
	} {
		if got := plainlyShallow([]byte(src)); got != want {
			t.Errorf("%.40q: %v", src, got)
		}
	}
}

// manyArtifacts is a pipeline of n artifacts, each with two references and one of its own.
func manyArtifacts(n int) string {
	var b strings.Builder
	b.WriteString(`
variable "version" { default = "1.0.0" }
layout "ab" {
  reserve "env" {
    offset = "1MiB"
    size   = "128KiB"
  }
  slots "rootfs" {
    size       = "64MiB"
    filesystem = "ext4"
  }
}
device_type "d" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
`)
	for i := range n {
		fmt.Fprintf(&b, `artifact "a%d" {
  name         = "app-%d-${var.version}"
  device_types = [device_type.d]
  payload "edge-app" { file = "good.ext4" }
  provides = { "app-%d.version" = var.version }
}
`, i, i, i)
	}
	return b.String()
}

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{1_000, 5_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := write(b, map[string]string{"x" + suffixHCL: manyArtifacts(n)})
			b.ReportAllocs()
			for b.Loop() {
				p, diags := Load(LoadOptions{Dir: dir})
				if diags = append(diags, p.Validate()...); diags.HasErrors() {
					b.Fatal(diags)
				}
			}
		})
	}
}

func BenchmarkFormat(b *testing.B) {
	src := []byte(manyArtifacts(5_000))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, diags := Format(src, "x"+suffixHCL); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}
