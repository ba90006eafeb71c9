package attest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/twinkeel/twinkeel/signing/verify"
)

// The limits of what is read, beside MaxSize.
const (
	maxDepth      = 64
	maxSignatures = 16
	maxSubjects   = 4096 // as many files as a payload may have
	// How many values the JSON may hold. The envelope, which anybody can write, needs few.
	maxEnvelopeValues  = 4096
	maxStatementValues = 1 << 20
)

const rawP256Size = 64

// Policy says who must have signed.
type Policy int

const (
	// AnyKey asks for a signature by at least one of the trusted keys.
	AnyKey Policy = iota
	// AllKeys asks for a signature by each of the trusted keys.
	AllKeys
)

// Verified is a statement whose signatures were checked.
type Verified struct {
	Statement Statement
	KeyIDs    []string // of the trusted keys that signed it, sorted
}

// Read reads an envelope, but no more than MaxSize.
func Read(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the attestation: %w", err)
	}
	if len(data) > MaxSize {
		return nil, tooLarge()
	}
	return data, nil
}

func tooLarge() error { return malformed("envelope", "it is larger than %d MiB", MaxSize>>20) }

// Check decides whether an envelope is the statement that belongs to an artifact: the artifact provides its SHA-256, the policy's
// keys signed it, and it is about exactly the files of the payload. Provides and files (names as in the payload, such as
// "rootfs.ext4", and SHA-256) must come from an artifact that was itself verified, else they prove nothing.
func Check(provides, files map[string]string, envelope []byte, keys *verify.Keyring, policy Policy) (*Verified, error) {
	if err := named(provides, Digest(envelope)); err != nil {
		return nil, err
	}
	v, err := Verify(envelope, keys, policy)
	if err != nil {
		return nil, err
	}
	if err := Matches(v.Statement, files); err != nil {
		return nil, err
	}
	return v, nil
}

// named reports whether the artifact provides the digest of the statement. An artifact may update several pieces of software
// and then have several keys, one of which is this statement's.
func named(provides map[string]string, digest string) error {
	var other *DigestError
	for _, key := range slices.Sorted(maps.Keys(provides)) {
		if !strings.HasSuffix(key, keySuffix) {
			continue
		}
		if provides[key] == digest {
			return nil
		}
		if other == nil {
			other = &DigestError{Key: key, Want: provides[key], Got: digest}
		}
	}
	if other != nil {
		return other
	}
	return ErrNotNamed
}

// Matches reports whether the statement's subjects are exactly the given files, by their names in the payload and SHA-256 in
// lower-case hexadecimal. The error is a *SubjectError.
func Matches(s Statement, files map[string]string) error {
	var e SubjectError
	subjects := make(map[string]string, len(s.Subject))
	for _, d := range s.Subject {
		if name, ok := strings.CutPrefix(d.Name, subjectName("")); ok {
			subjects[name] = d.Digest["sha256"]
		} else {
			e.Extra = append(e.Extra, d.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch sum, ok := subjects[name]; {
		case !ok:
			e.Missing = append(e.Missing, name)
		case sum != files[name]:
			e.Changed = append(e.Changed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		if _, ok := files[name]; !ok {
			e.Extra = append(e.Extra, name)
		}
	}
	if len(e.Missing)+len(e.Extra)+len(e.Changed) > 0 {
		return &e
	}
	return nil
}

// Verify checks an envelope's signatures against the trusted keys and returns its statement. Nothing of the statement is looked
// at before. The errors are ErrUnsigned, ErrSignature and *FormatError.
func Verify(envelope []byte, keys *verify.Keyring, policy Policy) (*Verified, error) {
	if keys == nil {
		return nil, errors.New("checking the attestation: no verification key is given")
	}
	payload, signatures, err := parseEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	if len(signatures) == 0 {
		return nil, ErrUnsigned
	}
	ids := signedBy(pae(PayloadType, payload), signatures, keys)
	if err := policy.check(ids, keys); err != nil {
		return nil, err
	}
	s, err := parseStatement(payload)
	if err != nil {
		return nil, err
	}
	return &Verified{Statement: *s, KeyIDs: ids}, nil
}

// signedBy returns the identifiers of the keys that signed the message. Signatures by strangers do no harm: whoever adds one
// to an envelope must not be able to make it worthless.
func signedBy(message []byte, signatures [][]byte, keys *verify.Keyring) []string {
	found := make(map[string]bool)
	for _, sig := range signatures {
		if len(sig) == rawP256Size {
			continue // Mender's form of ECDSA, which no other reader of envelopes takes
		}
		if id, err := keys.Verify(message, sig); err == nil {
			found[id] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (p Policy) check(ids []string, keys *verify.Keyring) error {
	switch p {
	case AnyKey:
		if len(ids) == 0 {
			return fmt.Errorf("%w: no trusted key made any of its signatures", ErrSignature)
		}
	case AllKeys:
		for _, k := range keys.Keys() {
			if !slices.Contains(ids, k.ID) {
				return fmt.Errorf("%w: key %s did not sign it, and all trusted keys must", ErrSignature, k.ID)
			}
		}
	default:
		return fmt.Errorf("checking the attestation: unknown policy %d", int(p))
	}
	return nil
}

// parseEnvelope takes an envelope apart. Fields it does not know are passed over, as the format demands.
func parseEnvelope(data []byte) (payload []byte, signatures [][]byte, err error) {
	const part = "envelope"
	if len(data) > MaxSize {
		return nil, nil, tooLarge()
	}
	if err := checkJSON(data, maxDepth, maxEnvelopeValues); err != nil {
		return nil, nil, malformed(part, "%v", err)
	}
	e, err := object(data)
	if err != nil {
		return nil, nil, malformed(part, "it is not a JSON object")
	}
	payloadType, err := text(e, "payloadType")
	if err != nil {
		return nil, nil, malformed(part, "%v", err)
	}
	if payloadType != PayloadType {
		return nil, nil, malformed(part, "it contains %s, not %s", short(payloadType), PayloadType)
	}
	encoded, err := text(e, "payload")
	if err != nil {
		return nil, nil, malformed(part, "%v", err)
	}
	if payload, err = decode64(encoded); err != nil {
		return nil, nil, malformed(part, "its payload is not base64")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(e["signatures"], &list); err != nil {
		return nil, nil, malformed(part, "signatures is missing or not a list")
	}
	if len(list) > maxSignatures {
		return nil, nil, malformed(part, "it has %d signatures, more than %d", len(list), maxSignatures)
	}
	for i, raw := range list {
		s, err := object(raw)
		if err != nil {
			return nil, nil, malformed(part, "signature %d is not a JSON object", i+1)
		}
		encoded, err := text(s, "sig")
		if err != nil {
			return nil, nil, malformed(part, "signature %d: %v", i+1, err)
		}
		sig, err := decode64(encoded)
		if err != nil || len(sig) == 0 {
			return nil, nil, malformed(part, "signature %d is not base64", i+1)
		}
		signatures = append(signatures, sig)
	}
	return payload, signatures, nil
}

// decode64 reads the two alphabets that the format allows, padded, without the line breaks and stray bits that Go would pass over.
func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break")
	}
	if data, err := base64.StdEncoding.Strict().DecodeString(s); err == nil {
		return data, nil
	}
	return base64.URLEncoding.Strict().DecodeString(s)
}

// parseStatement reads a statement. What decides (its kind and its subjects) is taken from fields of exactly the right name.
func parseStatement(data []byte) (*Statement, error) {
	const part = "statement"
	if err := checkJSON(data, maxDepth, maxStatementValues); err != nil {
		return nil, malformed(part, "%v", err)
	}
	fields, err := object(data)
	if err != nil {
		return nil, malformed(part, "it is not a JSON object")
	}
	for _, f := range []struct{ name, want string }{{"_type", StatementType}, {"predicateType", PredicateType}} {
		got, err := text(fields, f.name)
		if err != nil {
			return nil, malformed(part, "%v", err)
		}
		if got != f.want {
			return nil, malformed(part, "%s is %s, only %s is known here", f.name, short(got), f.want)
		}
	}
	s := Statement{Type: StatementType, PredicateType: PredicateType}
	if s.Subject, err = parseSubjects(fields["subject"]); err != nil {
		return nil, malformed(part, "%v", err)
	}
	d := json.NewDecoder(bytes.NewReader(fields["predicate"]))
	d.UseNumber() // 2^53+1 stays what it is
	if err := d.Decode(&s.Predicate); err != nil {
		return nil, &FormatError{Part: part, Reason: "its predicate is not one of SLSA Provenance v1", Err: err}
	}
	switch p := s.Predicate; {
	case p.BuildDefinition.BuildType == "":
		return nil, malformed(part, "buildDefinition.buildType is missing")
	case p.BuildDefinition.ExternalParameters == nil:
		return nil, malformed(part, "buildDefinition.externalParameters is missing")
	case p.RunDetails.Builder.ID == "":
		return nil, malformed(part, "runDetails.builder.id is missing")
	}
	return &s, nil
}

func parseSubjects(data json.RawMessage) ([]Descriptor, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, errors.New("subject is missing or not a list")
	}
	switch {
	case len(list) == 0:
		return nil, errors.New("it has no subject: there is no payload to speak about")
	case len(list) > maxSubjects:
		return nil, fmt.Errorf("it has %d subjects, more than %d", len(list), maxSubjects)
	}
	subjects := make([]Descriptor, 0, len(list))
	seen := make(map[string]bool, len(list))
	for i, raw := range list {
		d, err := parseSubject(raw)
		if err != nil {
			return nil, fmt.Errorf("subject %d: %w", i+1, err)
		}
		if seen[d.Name] {
			return nil, fmt.Errorf("subject %d: %s is there twice", i+1, short(d.Name))
		}
		seen[d.Name] = true
		subjects = append(subjects, d)
	}
	return subjects, nil
}

func parseSubject(raw json.RawMessage) (d Descriptor, err error) {
	fields, err := object(raw)
	if err != nil {
		return d, errors.New("it is not a JSON object")
	}
	if d.Name, err = text(fields, "name"); err != nil {
		return d, err
	}
	if d.Name == "" {
		return d, errors.New("its name is empty")
	}
	digests, err := object(fields["digest"])
	if err != nil {
		return d, errors.New("digest is missing or not a JSON object")
	}
	d.Digest = make(map[string]string, len(digests))
	for algorithm := range digests {
		if d.Digest[algorithm], err = text(digests, algorithm); err != nil {
			return d, err
		}
	}
	if !isSHA256(d.Digest["sha256"]) {
		return d, errors.New("its digest has no sha256 of 64 lower-case hexadecimal digits")
	}
	for field, to := range map[string]*string{"uri": &d.URI, "mediaType": &d.MediaType} {
		if _, ok := fields[field]; ok {
			if *to, err = text(fields, field); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// short quotes what a stranger wrote.
func short(s string) string {
	if len(s) > 120 {
		s = s[:120] + "…"
	}
	return fmt.Sprintf("%q", s)
}
