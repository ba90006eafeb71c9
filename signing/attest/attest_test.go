package attest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

// keyPair is a key in the files that users have.
type keyPair struct {
	private, public string
	signer          signing.Signer
}

func newKey(t testing.TB, algorithm string) keyPair {
	t.Helper()
	private, public, err := signing.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k := keyPair{private: filepath.Join(dir, "key.pem"), public: filepath.Join(dir, "key.pub")}
	if err := signing.WriteKeyPair(k.private, k.public, private, public); err != nil {
		t.Fatal(err)
	}
	if k.signer, err = signing.LoadFile(k.private, nil); err != nil {
		t.Fatal(err)
	}
	return k
}

func ring(t testing.TB, keys ...keyPair) *verify.Keyring {
	t.Helper()
	var paths []string
	for _, k := range keys {
		paths = append(paths, k.public)
	}
	r, err := verify.LoadKeyring(paths)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sum(b byte) string { return strings.Repeat(fmt.Sprintf("%02x", b), 32) }

func someFiles() map[string]string { return map[string]string{"rootfs.ext4": sum(1), "b.bin": sum(2)} }

func someBuild() Build {
	return Build{
		Version:    "1.2.3",
		Parameters: map[string]any{"artifact_name": "release-1 <&>", "device_types": []string{"rpi4"}},
		Internal:   map[string]any{"chunk": json.Number("9007199254740993")},
		Inputs:     []Descriptor{File("z.ext4", sum(9)), {URI: "git+https://example.org/layers", Digest: map[string]string{"gitCommit": strings.Repeat("ab", 20)}}, File("a.conf", sum(8))},
		Byproducts: []Descriptor{File("release-1.mender.spdx.json", sum(7))},
		Started:    time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600)),
	}
}

func sign(t testing.TB, s Statement, keys ...keyPair) []byte {
	t.Helper()
	var signers []Signer
	for _, k := range keys {
		signers = append(signers, k.signer)
	}
	env, err := Sign(t.Context(), s, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// payload decodes an envelope without the code under test.
func payload(t testing.TB, env []byte) []byte {
	t.Helper()
	var e struct{ Payload []byte }
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	return e.Payload
}

func TestSignVerify(t *testing.T) {
	t.Parallel()
	ec, rsa := newKey(t, "ecdsa-p256"), newKey(t, "rsa-3072")
	for name, keys := range map[string][]keyPair{"ecdsa": {ec}, "rsa": {rsa}, "both": {ec, rsa}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(someBuild(), someFiles())
			env := sign(t, s, keys...)
			if again := sign(t, New(someBuild(), someFiles()), keys...); string(again) != string(env) {
				t.Error("the same statement and keys gave other bytes")
			}
			for _, policy := range []Policy{AnyKey, AllKeys} {
				v, err := Verify(env, ring(t, keys...), policy)
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for _, k := range keys {
					want = append(want, k.signer.KeyID())
				}
				slices.Sort(want)
				if diff := cmp.Diff(want, v.KeyIDs); diff != "" {
					t.Error(diff)
				}
				// Numbers and lists of the free-form parameters come back as JSON has them.
				again, err := marshal(v.Statement)
				if err != nil || strings.TrimSpace(string(again)) != string(payload(t, env)) {
					t.Errorf("read back as %s, %v", again, err)
				}
			}
			if err := Matches(s, someFiles()); err != nil {
				t.Error(err)
			}
		})
	}
}

// The bytes are part of the format: other tools and earlier versions must understand them.
func TestStatementBytes(t *testing.T) {
	t.Parallel()
	got, err := encode(New(someBuild(), someFiles()))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[` +
		`{"name":"data/0000/b.bin","digest":{"sha256":"` + sum(2) + `"}},` +
		`{"name":"data/0000/rootfs.ext4","digest":{"sha256":"` + sum(1) + `"}}],` +
		`"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{` +
		`"buildType":"` + BuildType + `",` +
		`"externalParameters":{"artifact_name":"release-1 <&>","device_types":["rpi4"]},` +
		`"internalParameters":{"chunk":9007199254740993},` +
		`"resolvedDependencies":[` +
		`{"uri":"git+https://example.org/layers","digest":{"gitCommit":"` + strings.Repeat("ab", 20) + `"}},` +
		`{"name":"a.conf","digest":{"sha256":"` + sum(8) + `"}},` +
		`{"name":"z.ext4","digest":{"sha256":"` + sum(9) + `"}}]},` +
		`"runDetails":{"builder":{"id":"` + LocalBuilder + `","version":{"twinkeel":"1.2.3"}},` +
		`"metadata":{"startedOn":"2026-01-02T02:04:05Z"},` +
		`"byproducts":[{"name":"release-1.mender.spdx.json","digest":{"sha256":"` + sum(7) + `"}}]}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	bare, err := encode(New(Build{}, map[string]string{"f": sum(1)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, absent := range []string{"metadata", "version", "startedOn", "byproducts", "resolvedDependencies", "internalParameters"} {
		if strings.Contains(string(bare), `"`+absent+`"`) {
			t.Errorf("a statement without it has %s: %s", absent, bare)
		}
	}
}

// The example of DSSE's protocol.md.
func TestPAE(t *testing.T) {
	t.Parallel()
	if got := string(pae("http://example.com/HelloWorld", []byte("hello world"))); got != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Error(got)
	}
	if got := string(pae("", nil)); got != "DSSEv1 0  0 " {
		t.Errorf("%q", got)
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	a, b, c := newKey(t, ""), newKey(t, ""), newKey(t, "")
	s := New(someBuild(), someFiles())
	for name, tt := range map[string]struct {
		signed, trusted []keyPair
		any, all        bool
	}{
		"the trusted key":         {[]keyPair{a}, []keyPair{a}, true, true},
		"one of two trusted":      {[]keyPair{a}, []keyPair{a, b}, true, false},
		"both trusted":            {[]keyPair{b, a}, []keyPair{a, b}, true, true},
		"the trusted and another": {[]keyPair{c, a}, []keyPair{a}, true, true},
		"another":                 {[]keyPair{c}, []keyPair{a, b}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := sign(t, s, tt.signed...)
			for policy, want := range map[Policy]bool{AnyKey: tt.any, AllKeys: tt.all} {
				v, err := Verify(env, ring(t, tt.trusted...), policy)
				if (err == nil) != want || (v != nil) != want {
					t.Errorf("policy %d: %v", policy, err)
				}
				if err != nil && !errors.Is(err, ErrSignature) {
					t.Errorf("policy %d: %v", policy, err)
				}
			}
		})
	}
	if _, err := Verify(sign(t, s, a), ring(t, a), Policy(7)); err == nil {
		t.Error("an unknown policy let it pass")
	}
	if _, err := Verify(sign(t, s, a), nil, AnyKey); err == nil {
		t.Error("no keyring let it pass")
	}
}

// wrongSigner is a remote key store gone wrong.
type wrongSigner struct {
	signing.Signer
	sig []byte
	err error
}

func (w wrongSigner) Sign(context.Context, []byte) ([]byte, error) { return w.sig, w.err }

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	k := newKey(t, "")
	broken := errors.New("token removed")
	good := New(someBuild(), someFiles())
	noSum := New(Build{}, map[string]string{"f": "abc"})
	upper := New(Build{}, map[string]string{"f": strings.ToUpper(sum(0xab))})
	huge := New(Build{Parameters: map[string]any{"x": strings.Repeat("x", MaxSize)}}, someFiles())
	deep := any("x")
	for range maxDepth {
		deep = []any{deep}
	}
	for name, tt := range map[string]struct {
		s       Statement
		signers []Signer
		want    string
	}{
		"no key":           {good, nil, "not signed"},
		"a key twice":      {good, []Signer{k.signer, k.signer}, "given twice"},
		"17 keys":          {good, slices.Repeat([]Signer{k.signer}, 17), "too many"},
		"wrong signature":  {good, []Signer{wrongSigner{Signer: k.signer, sig: make([]byte, 64)}}, "is wrong"},
		"short signature":  {good, []Signer{wrongSigner{Signer: k.signer, sig: make([]byte, 63)}}, "63 bytes"},
		"failing key":      {good, []Signer{wrongSigner{Signer: k.signer, err: broken}}, "token removed"},
		"no payload":       {New(Build{}, nil), []Signer{k.signer}, "no subject"},
		"no checksum":      {noSum, []Signer{k.signer}, "sha256"},
		"upper case":       {upper, []Signer{k.signer}, "lower-case"},
		"too deep":         {New(Build{Parameters: map[string]any{"x": deep}}, someFiles()), []Signer{k.signer}, "nested deeper"},
		"too large":        {huge, []Signer{k.signer}, "16 MiB"},
		"no JSON":          {New(Build{Parameters: map[string]any{"x": func() {}}}, someFiles()), []Signer{k.signer}, "as JSON"},
		"unnamed payload":  {Statement{Type: StatementType, PredicateType: PredicateType}, []Signer{k.signer}, "subject"},
		"other predicates": {Statement{Type: StatementType, PredicateType: "x"}, []Signer{k.signer}, "predicateType"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, err := Sign(t.Context(), tt.s, tt.signers...)
			if err == nil || env != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Sign(t.Context(), good, wrongSigner{Signer: k.signer, err: broken}); !errors.Is(err, broken) {
		t.Errorf("the cause is lost: %v", err)
	}
	var fe *FormatError
	if _, err := Sign(t.Context(), noSum, k.signer); !errors.As(err, &fe) {
		t.Errorf("not typed: %v", err)
	}
}

// resign signs any payload in any envelope, as someone with a key may.
func resign(t testing.TB, k keyPair, payloadType, payload string) []byte {
	t.Helper()
	sig, err := k.signer.Sign(t.Context(), pae(payloadType, []byte(payload)))
	if err == nil {
		sig, err = derP256(sig)
	}
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return []byte(`{"payloadType":"` + payloadType + `","payload":"` + b64([]byte(payload)) + `","signatures":[{"sig":"` + b64(sig) + `"}]}`)
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k := newKey(t, "")
	env := string(sign(t, New(someBuild(), someFiles()), k))
	body := string(payload(t, []byte(env)))
	var parts struct {
		Payload    string
		Signatures []struct{ Sig string }
	}
	if err := json.Unmarshal([]byte(env), &parts); err != nil {
		t.Fatal(err)
	}
	sig := parts.Signatures[0].Sig
	raw, err := k.signer.Sign(t.Context(), pae(PayloadType, []byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, replacement string) string {
		if !strings.Contains(env, old) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return strings.Replace(env, old, replacement, 1)
	}
	signed := func(old, replacement string) string {
		if !strings.Contains(body, old) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return string(resign(t, k, PayloadType, strings.Replace(body, old, replacement, 1)))
	}
	many := `"signatures":[` + strings.Repeat(`{"sig":"AA=="},`, 16) + `{"sig":"` + sig + `"}]`
	wide := `"x":[` + strings.Repeat("0,", 3*maxEnvelopeValues) + `0],"payload"`
	for name, tt := range map[string]struct {
		env  string
		want string // "" is ErrSignature, "unsigned" is ErrUnsigned, all else is part of a FormatError
	}{
		"empty":                     {"", "ends too early"},
		"not JSON":                  {"{]", "not JSON"},
		"null":                      {"null", "not a JSON object"},
		"a list":                    {"[]", "not a JSON object"},
		"cut short":                 {env[:len(env)-3], "ends too early"},
		"trailing data":             {env + "{}", "follows the JSON"},
		"not UTF-8":                 {edit(`"payloadType"`, "\"x\":\"\xff\",\"payloadType\""), "UTF-8"},
		"too large":                 {edit(`"payloadType"`, strings.Repeat(" ", MaxSize)+`"payloadType"`), "larger than 16 MiB"},
		"too deep":                  {edit(`"payloadType"`, `"x":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+`,"payloadType"`), "nested deeper"},
		"too many values":           {edit(`"payload"`, wide), "more than 4096 values"},
		"payload twice":             {edit(`"payload"`, `"payload":"","payload"`), "twice"},
		"payload twice, escaped":    {edit(`"payload"`, `"p\u0061yload":"","payload"`), "twice"},
		"Payload":                   {edit(`"payload"`, `"Payload"`), `"payload" is missing`},
		"payload a number":          {edit(`"`+parts.Payload+`"`, "1"), "not a string"},
		"payload null":              {edit(`"`+parts.Payload+`"`, "null"), "not a string"},
		"payload with line breaks":  {edit(parts.Payload, parts.Payload[:40]+`\n`+parts.Payload[40:]), "not base64"},
		"payload without padding":   {edit(parts.Payload, parts.Payload[:41]), "not base64"},
		"other payload type":        {edit(PayloadType, "application/json"), "it contains"},
		"other payload type signed": {string(resign(t, k, "text/plain", body)), "it contains"},
		"signatures missing":        {edit(`"signatures"`, `"sigs"`), "signatures is missing"},
		"signatures no list":        {edit(`[{"sig":"`+sig+`"}]`, `{}`), "not a list"},
		"signatures null":           {edit(`[{"sig":"`+sig+`"}]`, `null`), "unsigned"},
		"no signature":              {edit(`{"sig":"`+sig+`"}`, ``), "unsigned"},
		"17 signatures":             {edit(`"signatures":[{"sig":"`+sig+`"}]`, many), "17 signatures"},
		"signature null":            {edit(`{"sig":"`+sig+`"}`, `null`), "signature 1 is not a JSON object"},
		"sig missing":               {edit(`"sig"`, `"Sig"`), `"sig" is missing`},
		"sig empty":                 {edit(sig, ""), "signature 1 is not base64"},
		"sig not base64":            {edit(sig, "!"), "signature 1 is not base64"},
		"sig with stray bits":       {edit(`{"sig":"`, `{"sig":"AB=="},{"sig":"`), "signature 1 is not base64"},
		"sig r and s":               {edit(sig, base64.StdEncoding.EncodeToString(raw)), ""},
		"sig of nothing":            {edit(sig, "AAAA"), ""},
		"one bit of the payload":    {edit(parts.Payload[:8], parts.Payload[:6]+"X"+parts.Payload[7:8]), ""},
		"payload of another":        {edit(parts.Payload, base64.StdEncoding.EncodeToString([]byte("{}"))), ""},

		"signed no JSON":             {string(resign(t, k, PayloadType, "x")), "statement: it is not JSON"},
		"signed empty":               {string(resign(t, k, PayloadType, "")), "statement: it ends too early"},
		"signed null":                {string(resign(t, k, PayloadType, "null")), "statement: it is not a JSON object"},
		"statement v0.1":             {signed(StatementType, "https://in-toto.io/Statement/v0.1"), "_type"},
		"provenance v0.2":            {signed(PredicateType, "https://slsa.dev/provenance/v0.2"), "predicateType"},
		"predicate missing":          {signed(`"predicate":`, `"other":`), "predicate"},
		"predicate a list":           {signed(`"predicate":{`, `"predicate":[],"x":{`), "predicate"},
		"a time that is none":        {signed("2026-01-02", "2026-13-02"), "predicate"},
		"no build type":              {signed(BuildType, ""), "buildType"},
		"no parameters":              {signed(`"externalParameters"`, `"x"`), "externalParameters"},
		"no builder":                 {signed(LocalBuilder, ""), "builder.id"},
		"subject twice":              {signed("data/0000/b.bin", "data/0000/rootfs.ext4"), "twice"},
		"subject key twice":          {signed(`"name":"data`, `"name":"x","name":"data`), "twice"},
		"subject Name":               {signed(`"name":"data`, `"Name":"data`), `"name" is missing`},
		"subject without name":       {signed(`data/0000/b.bin`, ``), "name is empty"},
		"subject null":               {signed(`"subject":[`, `"subject":[null,`), "subject 1"},
		"subject missing":            {signed(`"subject"`, `"x"`), "subject is missing"},
		"no subject":                 {signed(`"subject":[`, `"subject":[],"x":[`), "no subject"},
		"sha512 only":                {signed(`"sha256":"02`, `"sha512":"02`), "no sha256"},
		"sha256 in capitals":         {signed(sum(2), strings.Repeat("AB", 32)), "no sha256"},
		"sha256 a number":            {signed(`"`+sum(2)+`"`, `2`), "not a string"},
		"digest null":                {signed(`"digest":{`, `"digest":null,"x":{`), "digest is missing"},
		"4097 subjects":              {signed(`"subject":[`, `"subject":[`+strings.Repeat("1,", maxSubjects)), "more than 4096"},
		"subject with a wrong uri":   {signed(`"name":"data`, `"uri":1,"name":"data`), `"uri" is not a string`},
		"trailing text in statement": {string(resign(t, k, PayloadType, body+"{}")), "statement: something follows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := Verify([]byte(tt.env), ring(t, k), AnyKey)
			if err == nil || v != nil {
				t.Fatalf("accepted: %+v", v)
			}
			var fe *FormatError
			switch {
			case tt.want == "":
				if !errors.Is(err, ErrSignature) {
					t.Error(err)
				}
			case tt.want == "unsigned":
				if !errors.Is(err, ErrUnsigned) {
					t.Error(err)
				}
			case !errors.As(err, &fe) || !strings.Contains(err.Error(), tt.want):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}

	for name, env := range map[string]string{
		"white space":        " \n" + env + "\n ",
		"unknown field":      edit(`"payloadType"`, `"x":{"y":[1,null]},"payloadType"`),
		"keyid of somebody":  edit(`{"sig":"`, `{"keyid":"anything","sig":"`),
		"foreign signature":  edit(`{"sig":"`, `{"sig":"AAAA"},{"sig":"`),
		"same sig twice":     edit(`{"sig":"`, `{"sig":"`+sig+`"},{"sig":"`),
		"URL-safe alphabet":  edit(parts.Payload, strings.NewReplacer("+", "-", "/", "_").Replace(parts.Payload)),
		"unknown in payload": signed(`"predicate":`, `"x":1,"predicate":`),
		"more digests":       signed(`"sha256":"02`, `"sha1":"00","sha256":"02`),
		"subject with uri":   signed(`"name":"data`, `"uri":"https://example.org","mediaType":"x/y","name":"data`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Verify([]byte(env), ring(t, k), AllKeys); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	s := New(Build{}, someFiles())
	foreign := New(Build{}, someFiles())
	foreign.Subject = append(foreign.Subject, File("release.mender", sum(5)))
	with := func(change func(m map[string]string)) map[string]string {
		m := someFiles()
		change(m)
		return m
	}
	for name, tt := range map[string]struct {
		s     Statement
		files map[string]string
		want  *SubjectError
	}{
		"same":          {s, someFiles(), nil},
		"none":          {s, nil, &SubjectError{Extra: []string{"b.bin", "rootfs.ext4"}}},
		"changed":       {s, with(func(m map[string]string) { m["b.bin"] = sum(3) }), &SubjectError{Changed: []string{"b.bin"}}},
		"one more":      {s, with(func(m map[string]string) { m["c"] = sum(3) }), &SubjectError{Missing: []string{"c"}}},
		"one less":      {s, with(func(m map[string]string) { delete(m, "b.bin") }), &SubjectError{Extra: []string{"b.bin"}}},
		"empty sum":     {s, with(func(m map[string]string) { m["b.bin"] = "" }), &SubjectError{Changed: []string{"b.bin"}}},
		"other subject": {foreign, someFiles(), &SubjectError{Extra: []string{"release.mender"}}},
		"swapped": {s, map[string]string{"rootfs.ext4": sum(2), "b.bin": sum(1)}, &SubjectError{
			Changed: []string{"b.bin", "rootfs.ext4"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Matches(tt.s, tt.files)
			var got *SubjectError
			errors.As(err, &got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	e := &SubjectError{Missing: []string{"a\x1b[31m", "b", "c", "d", "e"}, Changed: []string{strings.Repeat("x", 500)}}
	if got := e.Error(); strings.ContainsRune(got, 0x1b) || !strings.Contains(got, "2 more") || len(got) > 400 {
		t.Errorf("%q", got)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	k, other := newKey(t, ""), newKey(t, "")
	env := sign(t, New(someBuild(), someFiles()), k)
	key := ProvidesKey("rootfs-image")
	provides := map[string]string{"rootfs-image.version": "1", "rootfs-image.sbom.sha256": sum(4), key: Digest(env)}
	if key != "rootfs-image.provenance.sha256" || SidecarName("out/x.mender") != "out/x.mender.intoto.json" {
		t.Error("the names have changed")
	}
	with := func(key, value string) map[string]string {
		m := maps.Clone(provides)
		m[key] = value
		return m
	}
	for name, tt := range map[string]struct {
		provides, files map[string]string
		env             []byte
		keys            *verify.Keyring
		want            any
	}{
		"good":          {provides, someFiles(), env, ring(t, k), nil},
		"one of two":    {with("a.provenance.sha256", sum(1)), someFiles(), env, ring(t, k), nil},
		"not named":     {map[string]string{"rootfs-image.sbom.sha256": Digest(env)}, someFiles(), env, ring(t, k), ErrNotNamed},
		"nil":           {nil, nil, nil, nil, ErrNotNamed},
		"another":       {with(key, sum(1)), someFiles(), env, ring(t, k), new(*DigestError)},
		"empty":         {with(key, ""), someFiles(), env, ring(t, k), new(*DigestError)},
		"reformatted":   {provides, someFiles(), append([]byte(" "), env...), ring(t, k), new(*DigestError)},
		"other key":     {provides, someFiles(), env, ring(t, other), ErrSignature},
		"other payload": {provides, map[string]string{"rootfs.ext4": sum(1)}, env, ring(t, k), new(*SubjectError)},
		"named rubbish": {with(key, Digest([]byte("x"))), someFiles(), []byte("x"), ring(t, k), new(*FormatError)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := Check(tt.provides, tt.files, tt.env, tt.keys, AllKeys)
			if (err == nil) != (tt.want == nil) || (v != nil) != (tt.want == nil) {
				t.Fatalf("%v", err)
			}
			switch want := tt.want.(type) {
			case nil:
			case error:
				if !errors.Is(err, want) {
					t.Error(err)
				}
			default:
				if !errors.As(err, want) {
					t.Error(err)
				}
			}
		})
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	if got, err := Read(strings.NewReader("abc")); err != nil || string(got) != "abc" {
		t.Error(err)
	}
	var fe *FormatError
	if _, err := Read(endless{}); !errors.As(err, &fe) {
		t.Error(err)
	}
	if _, err := Read(failing{}); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, os.ErrPermission }

// FuzzVerify looks for panics and for envelopes that pass without being what was signed.
func FuzzVerify(f *testing.F) {
	k := newKey(f, "")
	keys := ring(f, k)
	env := sign(f, New(someBuild(), someFiles()), k)
	want := string(payload(f, env))
	f.Add(env)
	f.Add([]byte(`{"payloadType":"` + PayloadType + `","payload":"e30=","signatures":[]}`))
	f.Add([]byte(`{"payload":"","payload":""}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Verify(data, keys, AnyKey)
		var fe *FormatError
		switch {
		case err == nil:
			if got, err := encode(v.Statement); err != nil || string(got) != want {
				t.Errorf("accepted what was not signed: %s, %v", got, err)
			}
		case !errors.Is(err, ErrUnsigned) && !errors.Is(err, ErrSignature) && !errors.As(err, &fe):
			t.Errorf("not typed: %v", err)
		}
	})
}

// FuzzStatement does the same behind the signature: whatever is accepted can be written and read again.
func FuzzStatement(f *testing.F) {
	body, err := encode(New(someBuild(), someFiles()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"_type":"` + StatementType + `","subject":[{"name":"x","digest":{"sha256":"` + sum(1) + `"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStatement(data)
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Errorf("not typed: %v", err)
			}
			return
		}
		again, err := marshal(*s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseStatement(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

var _ Signer = signing.Signer(nil)
