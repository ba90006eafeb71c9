package pipeline

import (
	"context"
	"fmt"
	"net/textproto"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// computeHTTP plans to fetch a file. No connection is opened: what the file is says its digest.
func (e *evaluator) computeHTTP(inst *instance) map[string]cty.Value {
	b := inst.body
	unknown := map[string]cty.Value{"path": cty.UnknownVal(cty.String), "size": cty.UnknownVal(cty.Number)}
	if !b.has("url") {
		return unknown
	}
	f := &Fetch{URL: b.text("url"), SHA256: b.text("sha256"), MaxSize: b.integer("max_size")}
	e.fetchHeaders(inst, f)
	name := fileOfURL(f.URL)
	out := map[string]cty.Value{"path": cty.StringVal(path.Join(sourceDir(inst.address), name)), "size": cty.UnknownVal(cty.Number)}
	if strings.HasPrefix(f.URL, "http://") && b.unset("sha256") {
		e.report(fault("Missing argument", "What comes over http can be changed on its way, so it needs sha256: what the file must be.", b.rangeOf("url")))
	}
	if e.facts != nil && b.unset("sha256") && !e.upgrading {
		e.fromLock(inst, f)
	}
	e.makes(inst, &SourceAction{Type: SourceHTTP, HTTP: f}, name)
	if b.unset("sha256") { // what the lock file says
		out["sha256"] = cty.UnknownVal(cty.String)
		if f.SHA256 != "" {
			out["sha256"] = cty.StringVal(f.SHA256)
		}
	}
	if e.facts != nil && f.SHA256 != "" { // what is there has been checked when it was fetched
		if size, err := e.facts.regular(out["path"].AsString()); err == nil {
			out["size"] = number(size)
		}
	}
	return out
}

// fromLock finds the digest of a file that the pipeline itself does not pin.
func (e *evaluator) fromLock(inst *instance, f *Fetch) {
	lock, diags := e.facts.lockFile()
	for _, d := range diags {
		e.report(d)
	}
	if diags.HasErrors() {
		return
	}
	entry, ok := lock[f.URL]
	if !ok {
		e.report(fault("Unknown checksum", fmt.Sprintf("Nothing says what %s must be. Add sha256, or let \"twinkeel init --upgrade\" fetch it once and write its checksum to %s.", f.URL, LockFile), inst.body.rangeOf("url")))
		return
	}
	f.SHA256 = entry.SHA256
}

func (e *evaluator) fetchHeaders(inst *instance, f *Fetch) {
	b := inst.body
	headers := b.textMap("headers")
	for _, name := range keys(headers) {
		at := elementRange(b.content.attrs["headers"].Expr, &problem{index: -1, key: name})
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !validHeader(name):
			e.report(fault("Wrong name", fmt.Sprintf("%q is not the name of a header.", shorten(name)), at.Ptr()))
		case canonical == "Range" || canonical == "If-Range" || canonical == "Host" || canonical == "Accept-Encoding":
			e.report(fault("Wrong name", fmt.Sprintf("%s is set as the download needs it.", canonical), at.Ptr()))
		case strings.ContainsFunc(headers[name], unicode.IsControl):
			e.report(fault("Wrong value", fmt.Sprintf("The value of %s holds a control character.", canonical), at.Ptr()))
		default:
			if f.Headers == nil {
				f.Headers = make(map[string]Secret)
			}
			f.Headers[canonical] = Secret(headers[name])
		}
	}
}

func validHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// fileOfURL is the name under which a file is kept: the last step of its path.
func fileOfURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "download"
	}
	name := strings.Map(func(r rune) rune {
		if validName.MatchString(string(r)) {
			return r
		}
		return '-'
	}, path.Base(u.Path))
	name = strings.TrimLeft(name, ".-")
	const most = 150
	if name == "" {
		return "download"
	}
	return name[max(0, len(name)-most):] // the end says what it is
}

func checkFetchURL(v cty.Value) string {
	u, err := url.Parse(v.AsString())
	switch {
	case err != nil || u.Host == "":
		return "must be a URL, such as \"https://example.com/app.tar.gz\""
	case u.Scheme != "https" && u.Scheme != "http":
		return "must begin with https:// or http://"
	case u.User != nil:
		return "holds a user name or password, which would end up in plain sight; use headers"
	case u.Fragment != "":
		return "holds a fragment, which no server gets to see"
	}
	return ""
}

// Unlocked are the files that the pipeline fetches without saying itself what they must be, in the order of their
// addresses. The lock file is not read.
func (p *Pipeline) Unlocked(ctx context.Context) ([]*SourceAction, hcl.Diagnostics) {
	if p.loadDiags.HasErrors() {
		return nil, p.loadDiags
	}
	e := newEvaluator(ctx, p, OS{}, true)
	e.upgrading = true
	for _, b := range e.declared(string(KindSource)) {
		if b.typ == SourceHTTP {
			e.symbol(b.symbol(), b.rng)
		}
	}
	var out []*SourceAction
	for _, inst := range e.sourceActions() {
		e.mustBeKnown(inst.body, inst)
		if a := inst.result.(*SourceAction); a.HTTP != nil && inst.body.unset("sha256") {
			out = append(out, a)
		}
	}
	diag.Sort(e.diags)
	if e.failed() {
		return nil, e.diags
	}
	return out, e.diags
}
