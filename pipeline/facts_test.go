package pipeline

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestDecomposedNames: names on a disk may be in another form of Unicode than texts, which are composed.
func TestDecomposedNames(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"d/e\u0301.txt": "12345", "e\u0301/in.txt": "1"})
	p, plan, text := planned(t, dir, forSources+`
source "file" "f" { path = "d/é.txt" }
artifact "a" {
  name         = "a-1"
  device_types = [device_type.d]
  payload "m" { files = [source.file.f.path, "é/in.txt"] }
}
output "size" { value = sum([for f in fileset("d", "*") : filesize("d/${f}")]) }
`, LoadOptions{})
	if plan == nil {
		t.Fatal(text)
	}
	if strings.Count(text, "File name in another form") != 1 {
		t.Errorf("it does not warn once: %q", text)
	}
	files := plan.Actions[0].Artifact.Payload.Files
	if want := []string{"d/e\u0301.txt", "e\u0301/in.txt"}; files[0] != filepath.Join(dir, want[0]) || files[1] != filepath.Join(dir, want[1]) {
		t.Errorf("the build reads %q", files)
	}
	if got := firstOutput(t, p); got != "5" {
		t.Errorf("the size is %s", got)
	}
	_, plan, text = planned(t, dir, forSources+`source "file" "f" { path = "d/è.txt" }`, LoadOptions{})
	if text != "" || plan == nil { // nothing needs it
		t.Errorf("%q", text)
	}
}

// TestLineEnds: scripts and texts for devices with the line ends of Windows.
func TestLineEnds(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"ArtifactInstall_Enter_00": "#!/bin/sh\r\n", "s.sh": "#!/bin/sh\r\nexit\r\n", "good.sh": "#!/bin/sh\necho 'a\r\n'\n"})
	_, plan, text := planned(t, dir, forSources+`
artifact "a" {
  name         = "a-1"
  device_types = [device_type.d]
  scripts      = ["ArtifactInstall_Enter_00"]
  provides     = { x = "a\r\nb" }
  payload "script" {
    file      = "s.sh"
    meta_data = { text = ["a\r\nb"] }
  }
}
`, LoadOptions{})
	if plan != nil || !strings.Contains(text, "provides holds") { // control characters are refused there
		t.Fatal(text)
	}
	_, plan, text = planned(t, dir, forSources+`
artifact "a" {
  name         = "a-1"
  device_types = [device_type.d]
  scripts      = ["ArtifactInstall_Enter_00"]
  payload "script" {
    file      = "s.sh"
    meta_data = { text = ["a\r\nb"] }
  }
}
artifact "b" {
  name         = "b-1"
  device_types = [device_type.d]
  payload "script" { file = "good.sh" }
}
`, LoadOptions{})
	if plan == nil || strings.Count(text, "Line ends of Windows") != 3 {
		t.Error(text)
	}
}

// TestChecksumsOfSources: a source says what its file is, for those who ask.
func TestChecksumsOfSources(t *testing.T) {
	t.Parallel()
	const sum = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5" // of 12345
	dir := write(t, map[string]string{"f": "12345", LockFile: string(FormatLock(map[string]Locked{"https://example.com/a": {SHA256: sum, Size: 5}}))})
	for _, value := range []string{"source.file.f.sha256", `values(source.file)[0].sha256`, "source.http.h.sha256"} {
		p, plan, text := planned(t, dir, `
source "file" "f" { path = "f" }
source "http" "h" { url = "https://example.com/a" }
output "o" { value = `+value+` }
`, LoadOptions{})
		if plan == nil {
			t.Fatal(text)
		}
		if got := firstOutput(t, p); got != `"`+sum+`"` {
			t.Errorf("%s is %s", value, got)
		}
	}
}

// TestSentence: a path keeps its case.
func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"deploy has no root file system":          "deploy has no root file system.",
		"nodir cannot be read: no such directory": "nodir cannot be read: no such directory.",
		"there is no x":                           "There is no x.",
		"the boot file x is not in y. Did you?":   "The boot file x is not in y. Did you?",
		"nothing in deploy matches *.bin":         "Nothing in deploy matches *.bin.",
		"x/y is a directory":                      "x/y is a directory.",
	} {
		if got := sentence(text); got != want {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestOneOutput: what is wrong with another output does not matter.
func TestOneOutput(t *testing.T) {
	p := mustLoad(t, "output \"a\" { value = 1 }\noutput \"b\" { value = file(\"nowhere\") }\n", LoadOptions{})
	outputs, diags := p.Outputs(t.Context(), OutputOptions{Name: "a", FS: world()})
	if fatal(t, p, diags); len(outputs) != 1 || outputs[0].Name != "a" {
		t.Errorf("%v", outputs)
	}
}

// TestUnknownInJSON: JSON syntax gets the suggestions of native syntax.
func TestUnknownInJSON(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		`{"artefact": {"a": {}}}`:                                     "Did you mean artifact?",
		`{"data": {"a": {}}}`:                                         "Did you mean source or artifact?",
		`{"output": {"o": {"value": 1, "desciption": "x"}}}`:          "Did you mean description?",
		`{"artifact": {"o": {"count": 1}}}`:                           "There is no count; use for_each",
		`{"//": "x", "output": {"o": {"//": "comment", "value": 1}}}`: "",
	} {
		dir := write(t, map[string]string{"x" + suffixJSON: src})
		_, diags := Load(LoadOptions{Dir: dir})
		if got := diags.Error(); want != "" && !strings.Contains(got, want) || want == "" && diags.HasErrors() {
			t.Errorf("%s: %s", src, got)
		}
	}
}

// TestDependsOnSources: sources run before what names them, also when it reads nothing of theirs.
func TestDependsOnSources(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"f": "1"})
	_, plan, text := planned(t, dir, forSources+`
source "file" "f" { path = "f" }
source "exec" "first" {
  command = ["true"]
  outputs = { a = "a" }
}
source "exec" "second" {
  command    = ["true"]
  outputs    = { a = "a" }
  depends_on = [source.exec.first, source.file.f]
}
artifact "a" {
  name         = "a-1"
  device_types = [device_type.d]
  payload "m" { file = "f" }
  depends_on = [source.exec.second, source.file.f]
}
`, LoadOptions{})
	if plan == nil {
		t.Fatal(text)
	}
	if got := strings.Join(addresses(plan), " "); got != "source.exec.first source.exec.second artifact.a" {
		t.Errorf("the plan is %s", got)
	}
	if needs := plan.Actions[2].DependsOn; len(needs) != 1 || needs[0] != "source.exec.second" {
		t.Errorf("the artifact needs %v", needs)
	}
}
