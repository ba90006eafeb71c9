package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twinkeel/twinkeel/cli"
)

// Secrets that look different in JSON, in URLs and between the quotes of the language; the second one can be a token.
const (
	planted      = `PLANTED-"<s&crét>\x${1}%-/+`
	plantedToken = `PLANTED-s&cr/%41+"=`
)

// plantedForms are its looks. Base64 and the like are not searched for: nobody can know all that functions make of a secret.
func plantedForms(planted string) []string {
	escaped, _ := json.Marshal(planted)
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(planted)
	native := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `$${`).Replace(planted)
	forms := []string{planted, string(escaped[1 : len(escaped)-1]), strings.Trim(plain.String(), "\"\n"), native, url.QueryEscape(planted), url.PathEscape(planted)}
	return append(forms, `PLANTED-`, `s&cr`) // and what is left when it is cut
}

const secretHead = `
variable "secret" {
  sensitive = true
  type      = string
  default   = null
}
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
device_type "board" {
  architecture = "arm64"
  layout       = layout.ab
  bootloader "u-boot" { environment = "env" }
}
`

const secretArtifact = `
artifact "app" {
  name         = "app-1"
  device_types = [device_type.board]
  payload "single-file" {
    file        = "payload.bin"
    destination = "/opt/app"
  }
}
`

// secretTest is a run that says the secret where it can.
const secretTest = `run "says" {
  assert {
    condition     = local.a == "x"
    error_message = "it is ${local.a}, ${nonsensitive(local.a)} and ${jsonencode(local.a)}"
  }
  assert {
    condition     = parseint(local.a, 10) == 1
    error_message = "no number"
  }
}
`

// secretExec is a command that prints the secret it is given, whole and by lines.
const secretExec = `
source "exec" "x" {
  command            = ["sh", "-c", "echo out of the command; echo \"a $TOKEN b\"; printf '%s' \"$TOKEN\" >&2; echo done >$OUT/o; exit 0"]
  outputs            = { o = "o" }
  environment        = { TOKEN = var.secret }
}
`

// secretScenario plants the secret and runs commands. What the user wrote down by hand may hold it, all else may not.
type secretScenario struct {
	hcl      string
	files    map[string]string
	env      []string
	commands []string // words separated by spaces; SECRET is the secret, SERVER a server that repeats what it was sent
	stdin    string
	fails    bool // the last command must
	token    bool // the secret is plantedToken
	// shows is what the output must hold, to know that the scenario comes as far as it should.
	shows string
}

func secretScenarios() map[string]secretScenario {
	signed := strings.Replace(secretArtifact, "  payload", "  signer = signer.file.s\n  payload", 1)
	v := "--var secret=SECRET"
	return map[string]secretScenario{
		"validate":                 {hcl: secretArtifact, commands: []string{"validate " + v}, shows: "valid"},
		"plan":                     {hcl: secretArtifact, commands: []string{"plan " + v}, shows: "never built"},
		"plan json":                {hcl: secretArtifact, commands: []string{"plan --json " + v}, shows: "never_built"},
		"plan file":                {hcl: secretArtifact, commands: []string{"plan --out p.plan " + v, "apply p.plan " + v}, shows: "built"},
		"stale plan":               {hcl: secretArtifact, commands: []string{"plan --out p.plan " + v, "apply p.plan --var secret=x"}, fails: true, shows: "sensitive variable secret changed"},
		"build":                    {hcl: secretArtifact, commands: []string{"build " + v, "build --force --json " + v, "cache ls --json"}, shows: "artifact.app"},
		"log":                      {hcl: secretArtifact, commands: []string{"build --log-level debug " + v, "inspect --log-level debug " + v}, shows: "level=DEBUG"},
		"log in a file":            {hcl: secretArtifact, env: []string{"TWINKEEL_LOG=debug", "TWINKEEL_LOG_PATH=LOG"}, commands: []string{"console " + v}, stdin: "parseint(var.secret, 10)\n", fails: true, shows: "rror"},
		"json into":                {hcl: `locals { a = parseint(var.secret, 10) }`, commands: []string{"inspect --json-into into.json " + v, "validate --json-into into.json " + v}, fails: true, shows: "sensitive"},
		"json into output":         {hcl: `output "o" { value = nonsensitive(var.secret) }`, commands: []string{"output --json-into into.json " + v}, shows: "(sensitive value)"},
		"progress as JSON":         {hcl: secretArtifact, commands: []string{"build --progress json " + v}, shows: "\"done\""},
		"environment":              {hcl: secretArtifact, env: []string{"TWINKEEL_VAR_secret=" + planted}, commands: []string{"build", "inspect"}, shows: "(sensitive value)"},
		"file":                     {hcl: secretArtifact, files: map[string]string{"prod.twinkeelvars.hcl": "secret = \"" + `PLANTED-\"<s&crét>\\x$${1}%-/+` + "\"\n"}, commands: []string{"inspect --var-file prod.twinkeelvars.hcl"}, shows: "(sensitive value)"},
		"automatic file":           {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secret = \"" + `PLANTED-\"<s&crét>\\x$${1}%-/+` + "\"\n"}, commands: []string{"inspect", "plan"}, shows: "never built"},
		"json file":                {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.json": mustJSON(map[string]string{"secret": planted})}, commands: []string{"inspect --json"}, shows: "sensitive"},
		"broken file":              {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secret = \"PLANTED-1\" oops\n"}, commands: []string{"validate", "plan", "validate --json"}, fails: true, shows: "line 1"},
		"open quote":               {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secret = \"PLANTED-1\n"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"bare secret":              {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secret = PLANTED-1\n"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"block in a file":          {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "variable \"secret\" { default = \"PLANTED-1\" }\n"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"twice in a file":          {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.json": "{\"secret\": \"PLANTED-1\", \"secret\": \"PLANTED-2\"}"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"broken JSON file":         {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.json": "{\"secret\": \"PLANTED-1\""}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"comma in a JSON file":     {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.json": "{\"secret\": \"PLANTED-1\",}"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "line 1"},
		"function in a file":       {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secret = base64encode(\"PLANTED-1\")\n"}, commands: []string{"validate --json", "plan"}, fails: true, shows: "plain values"},
		"misspelt name":            {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secrte = \"PLANTED-1\"\n"}, commands: []string{"validate --json", "plan"}, shows: "Did you mean secret?"},
		"misspelt function":        {hcl: secretArtifact, files: map[string]string{"a.auto.twinkeelvars.hcl": "secrte = base64encode(\"PLANTED-1\")\n"}, commands: []string{"validate --json", "plan"}, shows: "Did you mean secret?"},
		"inspect":                  {hcl: `locals { a = "x${var.secret}y" }`, commands: []string{"inspect " + v}, shows: "(sensitive value)"},
		"inspect json":             {hcl: `locals { a = { b = [var.secret] } }`, commands: []string{"inspect --json " + v}, shows: "sensitive"},
		"graph":                    {hcl: `locals { a = var.secret }`, commands: []string{"graph " + v, "graph --json " + v}, shows: "local.a"},
		"console":                  {stdin: "var.secret\nupper(var.secret)\n\"${var.secret}\"\n{(\"a\") = var.secret}\ntype(var.secret)\n", commands: []string{"console " + v}, shows: "(sensitive value)"},
		"console errors":           {stdin: "parseint(var.secret, 10)\nvar.secret.x\nvar.secret + 1\n[1][var.secret]\n", commands: []string{"console " + v}, fails: true, shows: "rror"},
		"nonsensitive":             {hcl: `output "o" { value = nonsensitive(var.secret) }`, commands: []string{"output " + v, "output --json " + v, "output o " + v, "output --raw o " + v, "inspect " + v}, shows: "(sensitive value)"},
		"sensitive output":         {hcl: "output \"o\" {\n value = var.secret\n sensitive = true\n}", commands: []string{"output " + v, "output --json " + v}, shows: "sensitive"},
		"one output":               {hcl: "output \"o\" {\n value = var.secret\n sensitive = true\n}", commands: []string{"output --raw o " + v}, fails: true, shows: "never printed"},
		"plain output":             {hcl: `output "o" { value = var.secret }`, commands: []string{"output " + v}, fails: true, shows: "sensitive"},
		"name":                     {hcl: strings.Replace(secretArtifact, `"app-1"`, `"app-${var.secret}"`, 1), commands: []string{"build " + v}, fails: true, shows: "Secret in plain sight"},
		"key of for_each":          {hcl: "source \"file\" \"f\" {\n for_each = toset([var.secret])\n path = each.key\n}", commands: []string{"plan " + v}, fails: true, shows: "Secret in plain sight"},
		"hidden key":               {hcl: "source \"file\" \"f\" {\n for_each = { for k in [var.secret] : k => 1 }\n path = \"payload.bin\"\n}", commands: []string{"plan " + v}, fails: true, shows: "rror"},
		"meta data":                {hcl: strings.Replace(secretArtifact, "/opt/app\"", "/opt/app\"\n meta_data = { a = var.secret }", 1), commands: []string{"build " + v}, fails: true, shows: "Secret in plain sight"},
		"provides":                 {hcl: strings.Replace(secretArtifact, "  payload", "  provides = { a = var.secret }\n  payload", 1), commands: []string{"build --json " + v}, fails: true, shows: "Secret in plain sight"},
		"parseint":                 {hcl: `locals { a = parseint(var.secret, 10) }`, commands: []string{"validate " + v}, fails: true, shows: "sensitive"},
		"formatdate":               {hcl: `locals { a = formatdate(var.secret, "2026-01-01T00:00:00Z") }`, commands: []string{"validate --json " + v}, fails: true, shows: "sensitive"},
		"tonumber":                 {hcl: `locals { a = tonumber(var.secret) }`, commands: []string{"validate " + v}, fails: true, shows: "sensitive"},
		"jsondecode":               {hcl: `locals { a = jsondecode("{${var.secret}") }`, commands: []string{"validate " + v}, fails: true, shows: "sensitive"},
		"regex":                    {hcl: `locals { a = regex("^[0-9]+$", var.secret) }`, commands: []string{"validate " + v}, fails: true, shows: "sensitive"},
		"file name":                {hcl: `locals { a = file(var.secret) }`, commands: []string{"plan " + v, "inspect " + v}, fails: true, shows: "sensitive"},
		"templatefile":             {hcl: `locals { a = templatefile("t.txt", { x = var.secret }) }`, files: map[string]string{"t.txt": "${x} ${parseint(x, 10)}"}, commands: []string{"inspect " + v}, fails: true, shows: "rror"},
		"template":                 {hcl: `output "o" { value = nonsensitive(templatefile("t.txt", { x = var.secret })) }`, files: map[string]string{"t.txt": "say ${jsonencode(x)} and ${urlencode(x)}"}, commands: []string{"output " + v, "output --json " + v}, shows: "(sensitive value)"},
		"content of file":          {hcl: `output "o" { value = nonsensitive(sensitive(file("secret.txt"))) }`, files: map[string]string{"secret.txt": planted}, commands: []string{"output", "output --json"}, shows: "sensitive"},
		"wrong type":               {hcl: strings.Replace(secretHead, "type      = string", "type      = number", 1), commands: []string{"validate " + v}, fails: true, shows: "rror"},
		"wrong object":             {hcl: "variable \"o\" {\n sensitive = true\n type = object({ a = number })\n}", commands: []string{`validate --var o={a="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `$${`).Replace(planted) + `"}`}, fails: true, shows: "rror"},
		"validation":               {hcl: "variable \"o\" {\n sensitive = true\n type = string\n validation {\n condition = length(var.o) < 3\n error_message = \"too long: ${var.o}\"\n }\n}", commands: []string{"validate --var o=SECRET"}, fails: true, shows: "rror"},
		"check":                    {hcl: "check \"c\" {\n assert {\n condition = var.secret == \"x\"\n error_message = \"it is ${var.secret}\"\n }\n}", commands: []string{"plan " + v, "plan --json " + v}, fails: true, shows: "Check failed"},
		"map of secrets":           {hcl: "variable \"m\" {\n sensitive = true\n type = map(string)\n}\nlocals { a = var.m[\"nope\"] }", commands: []string{`inspect --var m={a="PLANTED-rest"}`}, fails: true, shows: "rror"},
		"key of a map":             {hcl: "variable \"m\" {\n sensitive = true\n type = map(string)\n}\nlocals { a = [var.m] }", commands: []string{`inspect --json --var m={PLANTED-key="a"}`, `inspect --var m={PLANTED-key="a"}`}, shows: "sensitive"},
		"passphrase":               {hcl: "signer \"file\" \"s\" {\n private_key = \"key.pem\"\n passphrase = var.secret\n}" + signed, commands: []string{"keys generate key.pem", "build " + v}, shows: "artifact.app"},
		"wrong key":                {hcl: "signer \"file\" \"s\" {\n private_key = \"key.pem\"\n passphrase = var.secret\n}" + signed, files: map[string]string{"key.pem": "no key " + "\n"}, commands: []string{"build " + v, "build --json " + v}, fails: true, shows: "key.pem"},
		"pin":                      {hcl: "signer \"pkcs11\" \"s\" {\n uri = \"pkcs11:token=t;object=o\"\n module = \"nothing.so\"\n pin = var.secret\n}" + strings.Replace(signed, "signer.file.s", "signer.pkcs11.s", 1), commands: []string{"build " + v}, fails: true, shows: "signer.pkcs11.s"},
		"pin in the environment":   {hcl: "signer \"pkcs11\" \"s\" {\n uri = \"pkcs11:token=t;object=o\"\n module = \"nothing.so\"\n}" + strings.Replace(signed, "signer.file.s", "signer.pkcs11.s", 1), env: []string{"TWINKEEL_PKCS11_PIN=" + planted}, commands: []string{"build SECRET", "build"}, fails: true, shows: "signer.pkcs11.s"},
		"pin in the uri":           {hcl: "signer \"pkcs11\" \"s\" {\n uri = \"pkcs11:token=t?pin-value=${var.secret}\"\n}", commands: []string{"validate " + v}, fails: true, shows: "Secret in plain sight"},
		"signing program":          {hcl: "signer \"command\" \"s\" {\n command = [\"sh\", \"-c\", \"echo $TWINKEEL_VAR_secret >&2; exit 1\"]\n public_key = \"key.pem.pub\"\n}" + strings.Replace(signed, "signer.file.s", "signer.command.s", 1), env: []string{"TWINKEEL_VAR_secret=" + planted}, commands: []string{"keys generate key.pem", "build"}, fails: true, shows: "artifact.app"},
		"token":                    {token: true, hcl: "server \"s\" {\n url = \"SERVER\"\n token = var.secret\n}" + secretArtifact + "rollout \"r\" {\n server = server.s\n artifacts = [artifact.app]\n phase \"all\" { percent = 100 }\n}", commands: []string{"build " + v, "push " + v, "push --json " + v, "rollout status " + v, "devices list " + v}, fails: true, shows: "400"},
		"token at a server":        {token: true, hcl: "server \"s\" {\n url = \"SERVER\"\n token = var.secret\n}" + secretArtifact + "rollout \"r\" {\n server = server.s\n artifacts = [artifact.app]\n phase \"all\" { percent = 100 }\n}", commands: []string{"plan --server --out p.plan " + v}, fails: true, shows: "400"},
		"token of the environment": {token: true, hcl: "server \"s\" { url = \"SERVER\" }", env: []string{"TWINKEEL_TOKEN=" + plantedToken}, commands: []string{"devices list"}, fails: true, shows: "400"},
		"url":                      {hcl: "server \"s\" { url = \"https://a:${var.secret}@b\" }", commands: []string{"validate " + v}, fails: true, shows: "Secret in plain sight"},
		"fmt":                      {hcl: "locals {\na   = \"${var.secret}\"\n}", commands: []string{"fmt " + v}, shows: ""},
		"default":                  {hcl: "variable \"o\" {\n sensitive = true\n default = env(\"PLACE\")\n}\nlocals { a = tonumber(var.o) }", env: []string{"PLACE=" + planted}, commands: []string{"validate", "inspect"}, fails: true, shows: "sensitive"},
		"module":                   {hcl: "module \"m\" {\n source = \"./m\"\n inputs = { s = var.secret }\n}", files: map[string]string{"m/m.twinkeel.hcl": "variable \"s\" {}\nlocals { a = parseint(var.s, 10) }\n"}, commands: []string{"validate " + v, "inspect " + v}, fails: true, shows: "sensitive"},
		"junit":                    {hcl: `locals { a = var.secret }`, files: map[string]string{"a.twinkeeltest.hcl": secretTest}, commands: []string{"test --verbose --json --junit-xml junit.xml " + v, "test --junit-xml junit.xml " + v}, fails: true, shows: "fail"},
		"junit of a run":           {hcl: `locals { a = var.secret }`, files: map[string]string{"a.twinkeeltest.hcl": strings.Replace(secretTest, "{", "{\n variables = { secret = \""+`PLANTED-\"<s&crét>\\x$${1}%-/+`+"\" }", 1)}, commands: []string{"test --junit-xml junit.xml"}, fails: true, shows: "fail"},
		"junit of several lines":   {hcl: `locals { a = var.secret }`, files: map[string]string{"a.twinkeeltest.hcl": secretTest}, env: []string{"TWINKEEL_VAR_secret=" + planted + "\nPLANTED-second"}, commands: []string{"test --junit-xml junit.xml"}, fails: true, shows: "fail"},
		"exec":                     {hcl: secretExec, commands: []string{"build source.exec.x --progress plain " + v, "build source.exec.x --force --progress json " + v, "plan " + v}, shows: "out of the command"},
		"exec of several lines":    {hcl: secretExec, env: []string{"TWINKEEL_VAR_secret=" + planted + "\nPLANTED-second"}, commands: []string{"build source.exec.x --progress plain", "build source.exec.x --force --log-level debug"}, shows: "out of the command"},
		"exec that fails":          {hcl: strings.Replace(secretExec, "exit 0", "exit 1", 1), commands: []string{"build source.exec.x --json " + v, "build source.exec.x " + v}, fails: true, shows: "source.exec.x"},
		"exec of lines that fails": {hcl: strings.Replace(secretExec, "exit 0", "exit 1", 1), env: []string{"TWINKEEL_VAR_secret=" + planted + "\nPLANTED-second"}, commands: []string{"build source.exec.x --json", "build source.exec.x"}, fails: true, shows: "source.exec.x"},
		"unknown target":           {hcl: secretArtifact, commands: []string{"plan artifact.SECRET " + v}, fails: true, shows: "Nothing is called"},
	}
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestSecrets plants a secret in many places and searches every stream and every file that commands write for it.
func TestSecrets(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest) // and what it was sent, as careless servers do
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "bad token " + token + " for " + url.QueryEscape(token)})
	}))
	defer server.Close()
	scenarios := secretScenarios()
	if len(scenarios) < 30 {
		t.Fatalf("only %d scenarios", len(scenarios))
	}
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			for _, e := range s.env { // some things are asked of the process's environment
				key, value, _ := strings.Cut(e, "=")
				t.Setenv(key, value)
			}
			dir := t.TempDir()
			head := secretHead
			if strings.Contains(s.hcl, `variable "secret"`) {
				head = ""
			}
			written := map[string]string{"x.twinkeel.hcl": head + strings.ReplaceAll(s.hcl, "SERVER", server.URL), "payload.bin": "payload"}
			for file, text := range s.files {
				written[file] = text
			}
			for file, text := range written {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(dir)
			secret := planted
			if s.token {
				secret = plantedToken
			}
			var all strings.Builder
			for i, command := range s.commands {
				args := strings.Fields(command)
				for j := range args {
					args[j] = strings.ReplaceAll(args[j], "SECRET", secret)
				}
				var stdout, stderr bytes.Buffer
				code := cli.Run(t.Context(), args, os.Environ(), strings.NewReader(s.stdin), &stdout, &stderr)
				out := stdout.String() + stderr.String()
				fmt.Fprintf(&all, "$ %s (%d)\n%s", args[0], code, out)
				if i == len(s.commands)-1 && (code != 0) != s.fails {
					t.Errorf("%s: exit code %d\n%s", args[0], code, out)
				}
				findPlanted(t, secret, args[0], out)
			}
			if !strings.Contains(all.String(), s.shows) {
				t.Errorf("%q is not shown:\n%s", s.shows, all.String())
			}
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				rel, _ := filepath.Rel(dir, path)
				if _, mine := written[rel]; err != nil || d.IsDir() || mine {
					return err
				}
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				findPlanted(t, secret, rel, rel+"\n"+string(content))
				return nil
			})
		})
	}
}

func findPlanted(t *testing.T, secret, where, text string) {
	t.Helper()
	for _, form := range plantedForms(secret) {
		if i := strings.Index(text, form); i >= 0 {
			t.Errorf("%s shows %q:\n%s", where, form, text[max(0, i-200):min(len(text), i+200)])
			return
		}
	}
}

// TestSecretSearch makes sure that the search finds what it is there to find.
func TestSecretSearch(t *testing.T) {
	t.Parallel()
	if strings.ContainsAny(planted, " ") {
		t.Error("commands are split at spaces")
	}
	for _, text := range plantedForms(planted) {
		found := false
		for _, form := range plantedForms(planted) {
			found = found || strings.Contains("before "+text+" after", form)
		}
		if !found {
			t.Errorf("%q is not found", text)
		}
	}
}
