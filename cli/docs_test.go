package cli

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	agentcli "github.com/twinkeel/twinkeel/agent/cli"
)

var update = flag.Bool("update", false, "rewrite generated pages")

// docsDate stands in the manual pages, which must not change with the day they are made on.
var docsDate = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// commandTree is the command line as a user sees it.
func commandTree() *cobra.Command {
	root := newApp(nil, strings.NewReader(""), io.Discard, io.Discard).rootCommand()
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	return root
}

// everyCommand calls fn for a command and all below it that are not hidden.
func everyCommand(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			everyCommand(sub, fn)
		}
	}
}

// TestCommandPages compares docs/cli.md and docs/man/twinkeel*.1 with the commands; -update rewrites them.
func TestCommandPages(t *testing.T) {
	t.Parallel()
	pages := map[string][]byte{"../docs/cli.md": commandReference(t)}
	for name, page := range manualPages(t) {
		pages[filepath.Join("../docs/man", name)] = page
	}
	if len(pages) < 20 {
		t.Fatalf("only %d pages", len(pages))
	}
	old, err := filepath.Glob("../docs/man/twinkeel*.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range old {
		if pages[name] == nil && *update {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		} else if pages[name] == nil {
			t.Errorf("%s is about no command; run make golden", name)
		}
	}
	for name, got := range pages {
		if *update {
			if err := os.WriteFile(name, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%v; make golden writes it", err)
		} else if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s is out of date; run make golden (-file +commands):\n%s", name, d)
		}
	}
}

// commandReference is docs/cli.md.
func commandReference(t *testing.T) []byte {
	t.Helper()
	root := commandTree()
	var b bytes.Buffer
	about, codes, ok := strings.Cut(root.Long, "Exit codes:\n")
	if !ok {
		t.Fatal("the help names no exit codes")
	}
	fmt.Fprintf(&b, "# The command line\n\n%s\n", markdown(strings.TrimSpace(about)))
	b.WriteString(`
What the pipeline's files may hold is in [language.md](language.md); the agent's commands are in
[twinkeel-agent(8)](man/twinkeel-agent.8). Manual pages of all commands are in [man/](man).

## Commands

| Command | What it does |
| --- | --- |
`)
	everyCommand(root, func(c *cobra.Command) {
		if c.Runnable() && !c.HasAvailableSubCommands() || c.Name() == "image" {
			fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
		}
	})
	b.WriteString("\n## Flags of every command\n\n")
	writeFlags(&b, root.PersistentFlags())
	b.WriteString("\nLong flags may have one dash, as in Terraform: `-var`, `-json`.\n")
	b.WriteString("\n## Exit codes\n\n| Code | Meaning |\n| --- | --- |\n")
	for _, line := range strings.Split(strings.TrimSpace(codes), "\n") {
		code, meaning, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("not an exit code: %q", line)
		}
		fmt.Fprintf(&b, "| %s | %s |\n", code, meaning)
	}
	b.WriteString(`
## Environment

| Variable | Meaning |
| --- | --- |
`)
	for _, v := range environment {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.name, v.text)
	}
	everyCommand(root, func(c *cobra.Command) {
		if c == root {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n", c.CommandPath())
		if c.Long != "" {
			fmt.Fprintf(&b, "%s\n", markdown(c.Long))
		} else {
			fmt.Fprintf(&b, "%s.\n", c.Short)
		}
		if subs := c.Commands(); len(subs) > 0 {
			b.WriteByte('\n')
			for _, sub := range subs {
				if sub.IsAvailableCommand() {
					fmt.Fprintf(&b, "- [%s](#%s): %s\n", sub.CommandPath(), strings.ReplaceAll(sub.CommandPath(), " ", "-"), sub.Short)
				}
			}
		}
		if c.HasAvailableSubCommands() && c.Name() != "image" {
			return
		}
		fmt.Fprintf(&b, "\n    %s\n", c.UseLine())
		local := pflag.NewFlagSet("", pflag.ContinueOnError)
		c.InheritedFlags().VisitAll(func(f *pflag.Flag) {
			if root.PersistentFlags().Lookup(f.Name) == nil {
				local.AddFlag(f)
			}
		})
		local.AddFlagSet(c.LocalFlags())
		if local.HasAvailableFlags() {
			b.WriteByte('\n')
			writeFlags(&b, local)
		}
	})
	return b.Bytes()
}

// environment lists the variables that the command reads; TestEnvironmentIsDocumented holds it to the sources.
var environment = []struct{ name, text string }{
	{"TWINKEEL_VAR_name", "value of the pipeline's variable of that name"},
	{"TWINKEEL_TOKEN", "token for servers whose block gives none"},
	{"TWINKEEL_KEY_PASSPHRASE", "passphrase of encrypted signing keys whose signer gives none"},
	{"TWINKEEL_PKCS11_PIN", "PIN of PKCS #11 tokens whose signer gives none"},
	{"TWINKEEL_PKCS11_MODULE", "PKCS #11 library of URIs that name none"},
	{"TWINKEEL_PKCS11_HELPER", "path of twinkeel-pkcs11, when it is neither beside twinkeel nor in PATH"},
	{"TWINKEEL_KMS_HELPER", "path of twinkeel-kms, when it is neither beside twinkeel nor in PATH"},
	{"TWINKEEL_CACHE_DIR", "directory of the cache; .twinkeel/cache in the pipeline's directory without"},
	{"TWINKEEL_LOG", "log what is done from this level on: debug, info, warn or error; --log-level wins"},
	{"TWINKEEL_LOG_PATH", "file that the log is appended to, in the place of stderr"},
	{"TWINKEEL_CACHE_MAX_SIZE", "what the cache may take on the disk, such as 5GiB; 0 for no bound"},
	{"PATH", "where programs are found; the commands of exec sources see it, too"},
	{"HOME", "the commands of exec sources see it"},
	{"GOGC", "how much memory is traded for time, as for all Go programs; validate and fmt choose 300 without"},
	{"SOURCE_DATE_EPOCH", "time stamped into outputs, in seconds since 1970; 0 without"},
	{"NO_COLOR", "when not empty, no colours, unless --color says so"},
	{"CLICOLOR_FORCE", "when neither empty nor 0, colours even where no terminal is"},
	{"CI", "when not empty, no questions and no lines that are drawn over"},
	{"TERM", "when it is \"dumb\", the same, and no colours"},
}

func writeFlags(b *bytes.Buffer, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + value
		}
		preset := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			preset = ", default `" + f.DefValue + "`"
		}
		fmt.Fprintf(b, "- `%s`: %s%s\n", name, text, preset)
	})
}

// markdown makes Markdown of a help text: what is indented stays as it is, the rest has no special characters.
func markdown(help string) string {
	var b strings.Builder
	code := false
	for i, line := range strings.Split(help, "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented && !code:
			b.WriteString("\n    " + strings.TrimPrefix(line, "  "))
		case indented:
			b.WriteString("    " + strings.TrimPrefix(line, "  "))
		default:
			if code && line != "" {
				b.WriteByte('\n')
			}
			b.WriteString(strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`).Replace(line))
		}
		code = indented
	}
	return b.String()
}

// manualPages makes the pages of section 1 by name.
func manualPages(t *testing.T) map[string][]byte {
	t.Helper()
	root := commandTree()
	everyCommand(root, func(c *cobra.Command) {
		c.DisableAutoGenTag = true
		if c == root {
			c.Long += "\n\nEnvironment:\n"
			for _, v := range environment {
				c.Long += fmt.Sprintf("  %-24s %s\n", v.name, v.text)
			}
		}
		c.Long = markdown(c.Long)
	})
	dir := t.TempDir()
	header := &doc.GenManHeader{Section: "1", Date: &docsDate, Source: "Twinkeel", Manual: "Twinkeel Manual"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	pages := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		pages[d.Name()], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// TestEnvironmentIsDocumented finds variables that the sources read and the pages do not name, and the other way round.
func TestEnvironmentIsDocumented(t *testing.T) {
	t.Parallel()
	read := regexp.MustCompile(`(?:[gG]etenv\(|environ\[)"([A-Z_]+)"|= "(TWINKEEL_[A-Z0-9_]+)"`)
	want := make(map[string]bool)
	for _, pattern := range []string{"*.go", "../pipeline/*.go", "../pipeline/build/*.go", "../signing/pkcs11.go", "../signing/helper.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(names), err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, m := range read.FindAllStringSubmatch(readPage(t, name), -1) {
				want[strings.TrimSuffix(m[1]+m[2], "_")] = true
			}
		}
	}
	got := make(map[string]bool)
	for _, v := range environment {
		got[strings.TrimSuffix(v.name, "_name")] = true
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("variables of the environment (-read +documented):\n%s", d)
	}
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExampleCommands tries every command line that the documentation shows, without running it.
func TestExampleCommands(t *testing.T) {
	t.Parallel()
	found := 0
	for _, name := range []string{"../README.md", "../docs/guide.md", "../docs/language.md", "../docs/architecture.md", "../docs/flashing.md"} {
		for _, line := range commandLines(readPage(t, name)) {
			found++
			if err := line.check(t); err != nil {
				t.Errorf("%s: %s: %v", name, line.text, err)
			}
		}
	}
	if found < 25 {
		t.Errorf("found only %d command lines", found)
	}
}

// TestCheckCommandLine holds the check itself to some mistakes.
func TestCheckCommandLine(t *testing.T) {
	t.Parallel()
	const page = "Run `twinkeel plan`, then\n\n    $ twinkeel -C fleet build --force \\\n        && twinkeel push 'artifact.*' # all\n    $ x=$(twinkeel version)\n    no twinkeel here\n    twinkeel ──> agent\n"
	want := []commandLine{{"twinkeel plan", true}, {"twinkeel -C fleet build --force", false}, {"twinkeel push 'artifact.*'", false}, {"twinkeel version", false}}
	if d := cmp.Diff(want, commandLines(page), cmp.AllowUnexported(commandLine{})); d != "" {
		t.Errorf("command lines (-want +got):\n%s", d)
	}
	for line, good := range map[string]bool{
		"twinkeel plan -json --detailed-exitcode": true, "twinkeel --var a=b rollout status --watch rollout.os": true, "twinkeel": true,
		"twinkeel artifact verify a.mender --key k.pem": true, "twinkeel-agent install a.mender": true,
		"twinkeel plna": false, "twinkeel plan --forec": false, "twinkeel rollout begin": false, "twinkeel artifact show": false,
		"twinkeel --var a plan": false, "twinkeel server token create ci --expires soon": false, "twinkeel-agent update": false,
	} {
		if err := (commandLine{text: line}).check(t); (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := (commandLine{"twinkeel artifact show", true}).check(t); err != nil {
		t.Errorf("a mention of a command needs no arguments: %v", err)
	}
}

var (
	inlineCode   = regexp.MustCompile("`(twinkeel(?:-agent)? [^`]+)`")
	substitution = regexp.MustCompile(`\$\((twinkeel [^()]*)\)`)
	separator    = regexp.MustCompile(`&&|[;|]`)
)

// commandLine is a use of twinkeel or twinkeel-agent in a page.
type commandLine struct {
	text string
	// mentioned is set for code within a sentence, which may name a command without its arguments.
	mentioned bool
}

// commandLines finds the command lines of a page: code within sentences, and indented and fenced lines that begin with
// a command, after a prompt or not. Pipelines and drawings are none.
func commandLines(page string) []commandLine {
	var out []commandLine
	fence := ""
	for _, line := range strings.Split(strings.ReplaceAll(page, "\\\n", " "), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			if fence == "" {
				fence = line
			} else {
				fence = ""
			}
			continue
		case fence == "```hcl" || strings.ContainsAny(line, "─│"):
			continue
		case fence == "" && !strings.HasPrefix(line, "    "):
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(m[1], "{") {
					out = append(out, commandLine{m[1], true})
				}
			}
			continue
		}
		line, _, _ = strings.Cut(line, " #")
		for _, m := range substitution.FindAllStringSubmatch(line, -1) {
			out = append(out, commandLine{text: m[1]})
		}
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		for _, one := range separator.Split(line, -1) {
			if one = strings.TrimSpace(one); strings.HasPrefix(one, "twinkeel ") || strings.HasPrefix(one, "twinkeel-agent ") {
				out = append(out, commandLine{text: strings.Join(strings.Fields(one), " ")})
			}
		}
	}
	return out
}

// check says what is wrong with a command line: a command or flag that does not exist, a value that does not fit,
// arguments missing or too many.
func (l commandLine) check(t *testing.T) error {
	t.Helper()
	words := strings.Fields(strings.ReplaceAll(l.text, "'", ""))
	args := words[1:]
	if words[0] == "twinkeel-agent" {
		if !strings.Contains(agentHelp(t), "\n  "+args[0]+" ") && args[0] != "help" {
			return fmt.Errorf("the agent has no command %s", args[0])
		}
		return nil
	}
	root := commandTree()
	c, rest, err := root.Find(longFlags(root, args))
	if err != nil {
		return err
	}
	if c != root && !c.IsAvailableCommand() {
		return fmt.Errorf("%s is hidden", c.CommandPath())
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if l.mentioned && c.Flags().NArg() == 0 {
		return nil
	}
	return c.ValidateArgs(c.Flags().Args())
}

func agentHelp(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	agentcli.Run(t.Context(), []string{"help"}, nil, nil, &b, &b)
	return b.String()
}

// TestAgentManual holds the written manual page of the agent to its help and its configuration.
func TestAgentManual(t *testing.T) {
	t.Parallel()
	page := strings.NewReplacer(`\-`, "-", `\fR`, "", `\fB`, "").Replace(readPage(t, "../docs/man/twinkeel-agent.8"))
	section := func(from, to string) string {
		_, rest, ok := strings.Cut(page, from)
		part, _, end := strings.Cut(rest, to)
		if !ok || !end {
			t.Fatalf("the page has no part from %q to %q", from, to)
		}
		return part
	}
	words := func(pattern, text string) map[string]bool {
		found := make(map[string]bool)
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			for _, word := range m[1:] {
				found[word] = true
			}
		}
		delete(found, "")
		return found
	}
	help := agentHelp(t)
	_, after, _ := strings.Cut(help, "Commands:\n")
	commands, after, _ := strings.Cut(after, "Flags:\n")
	flags, codes, _ := strings.Cut(after, "Exit codes:\n")
	source := readPage(t, "../agent/config.go")
	_, own, _ := strings.Cut(source, "ownKeys = []string{")
	own, _, _ = strings.Cut(own, "}")

	for what, one := range map[string]struct{ program, page map[string]bool }{
		"commands": {
			words(`(?m)^  ([a-z-]+) `, commands+"  help \n"),
			words(`(?m)^\.TP\n\.BI? ([a-z-]+)`, section(".SH COMMANDS", ".SH OPTIONS")),
		},
		"flags": {
			words(`--([a-z-]+)`, flags+"--reboot-exit-code"),
			words(`(?m)^\.TP\n\.BI? .*--([a-z-]+)`, section(".SH OPTIONS", ".SH EXIT")),
		},
		"exit codes": {words(`(?m)^  ([0-9]+)  `, codes), words(`(?m)^\.TP\n\.B ([0-9]+)`, section(".SH EXIT", ".SH CONF"))},
		"Mender's keys": {
			words(`(?m)s\.(?:get\("", |seconds\()"([A-Za-z]+)"`, source),
			words(`(?m)^\.TP\n\.B ([A-Za-z]+)(?:, ([A-Za-z]+))?$`, section(".SS Mender's", ".SS The section")),
		},
		"own keys": {words(`"([A-Za-z]+)"`, own), words(`(?m)^\.TP\n\.B ([A-Za-z]+)$`, section(".SS The section", ".SS Example"))},
	} {
		if len(one.program) < 5 {
			t.Errorf("found only %d %s", len(one.program), what)
		}
		if d := cmp.Diff(one.program, one.page); d != "" {
			t.Errorf("%s (-agent +page):\n%s", what, d)
		}
	}
}
