package pipeline

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"regexp"

	"github.com/zclconf/go-cty/cty"
)

// maxPublicKey bounds a PEM file with one public key.
const maxPublicKey = 64 << 10

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func checkVariableName(v cty.Value) string {
	if !variableName.MatchString(v.AsString()) {
		return "must be the name of an environment variable, such as \"OTA_SIGNING_KEY\", and not the key"
	}
	return ""
}

func (e *evaluator) computeSigner(inst *instance) map[string]cty.Value {
	b := inst.body
	s := &Signer{
		Address: inst.address, Kind: inst.block.typ,
		PrivateKey: e.abs(b.text("private_key")), PrivateKeyEnv: b.text("private_key_env"), Passphrase: Secret(b.text("passphrase")),
		URI: b.text("uri"), Module: e.abs(b.text("module")), PIN: Secret(b.text("pin")),
		Key:     b.text("key"),
		Command: b.texts("command"), Dir: e.pipeline.dir, PublicKey: e.abs(b.text("public_key")),
	}
	inst.result = s
	if inst.block.typ == "file" && !b.content.incomplete {
		switch {
		case b.unset("private_key") && b.unset("private_key_env"):
			e.report(fault("Missing argument", "A signer of type file needs private_key, a file, or private_key_env, the name of an environment variable that holds the key.", inst.block.rng.Ptr()))
		case !b.unset("private_key") && !b.unset("private_key_env"):
			e.report(fault("Conflicting arguments", "A signer takes private_key or private_key_env, not both.", b.rangeOf("private_key_env")))
		}
	}
	return e.publicHalf(inst, s)
}

// publicHalf finds the public key of a signer without opening the private one: in the file beside it, in the one that the
// block names, or in what the last build recorded.
func (e *evaluator) publicHalf(inst *instance, s *Signer) map[string]cty.Value {
	out := map[string]cty.Value{"key_id": cty.UnknownVal(cty.String), "public_key": cty.UnknownVal(cty.String)}
	file := ""
	switch {
	case inst.block.typ == "command":
		file = inst.body.text("public_key")
	case inst.block.typ == "file" && inst.body.has("private_key"):
		file = inst.body.text("private_key") + ".pub"
	}
	id, text := "", ""
	if e.facts != nil && file != "" {
		if data, err := e.facts.read(file, maxPublicKey); err == nil {
			id, text = publicKey(data)
			s.KeyID = id
		}
	}
	if built := e.built[inst.address]; id == "" && built.PublicKey != "" {
		id, text = publicKey([]byte(built.PublicKey))
	}
	if id != "" {
		out["key_id"], out["public_key"] = cty.StringVal(id), cty.StringVal(text)
	}
	return out
}

// publicKey reads a PEM file with one public key and returns its identity, the SHA-256 of its PKIX form as signing/verify
// has it, and that form as text. What is no such file gives "": whoever opens the key will say what is wrong.
func publicKey(data []byte) (id, text string) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return "", ""
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", ""
	}
	switch key.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
	default:
		return "", ""
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// scriptVariable is what names of U-Boot's variables may be here: what every version and the shell take.
var scriptVariable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)

// ownVariables are those of the update itself.
var ownVariables = regexp.MustCompile(`^(mender_.*|upgrade_available|bootcount|bootlimit)$`)

// maxScriptValue bounds a variable's value.
const maxScriptValue = 64 << 10

// scriptVars reads the further variables of U-Boot's first environment.
func (e *evaluator) scriptVars(b *body) map[string]string {
	vars := b.textMap("script_vars")
	for _, name := range keys(vars) {
		reason := ""
		switch {
		case !scriptVariable.MatchString(name):
			reason = fmt.Sprintf("%q is not the name of a variable: letters, digits and _ . - are allowed, at most 128, with no digit in front.", shorten(name))
		case ownVariables.MatchString(name):
			reason = fmt.Sprintf("%s belongs to the update itself, which sets it.", name)
		case len(vars[name]) > maxScriptValue || hasControl(vars[name]):
			reason = fmt.Sprintf("The value of %s is longer than 64KiB or holds a control character.", name)
		}
		if reason != "" {
			e.report(fault("Wrong variable", reason, elementRange(b.content.attrs["script_vars"].Expr, &problem{index: -1, key: name}).Ptr()))
		}
	}
	return vars
}

func hasControl(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return true
		}
	}
	return false
}

// checkScriptVars reports variables that would get lost: without the built-in ones they would make an environment with
// which U-Boot stops at its prompt, so there is none.
func (e *evaluator) checkScriptVars(inst *instance, im *Image) {
	boot := im.DeviceType.Bootloader
	if len(boot.ScriptVars) == 0 || inst.body.open {
		return
	}
	if place := im.DeviceType.Layout.Environment; place != nil && place.Reserve == "" {
		e.report(fault("Variables without an environment", fmt.Sprintf("%s has script_vars, but U-Boot's environment is in %s, which no image has.", im.DeviceType.Address, place.Device), inst.block.rng.Ptr()))
		return
	}
	if boot.Environment == "" { // not known, or reported
		return
	}
	for _, f := range im.Fills {
		if f.Partition == boot.Environment {
			return
		}
	}
	e.report(fault("Variables without an environment", fmt.Sprintf("%s has script_vars, but nothing fills %s. Add fill %q { file = ... } with U-Boot's built-in variables (u-boot-initial-env), to which they are added.",
		im.DeviceType.Address, boot.Environment, boot.Environment), inst.block.rng.Ptr()))
}
