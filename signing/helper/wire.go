// Package helper is the protocol between twinkeel and the programs that reach keys for it, with both of its ends: twinkeel-pkcs11
// loads the PKCS #11 modules of tokens (PKCS #11 2.40), twinkeel-kms has the clients of key management services.
//
// What these need does not belong into twinkeel: a libc and the modules of vendors that crash, or the memory that large client
// libraries take from every command. ssh-pkcs11-helper of OpenSSH is such a program, too. The protocol is one line of JSON for
// each request and each answer, over the helper's standard input and output. The PIN of a token travels there alone, the
// credentials of services in the environment, where their clients look for them; neither is ever an argument.
// docs/adr/0007-pkcs11-helper.md and docs/adr/0017-kms-helper.md say why.
package helper

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol. Both sides refuse every other.
const Version = 1

// MaxLine bounds a request and an answer.
const MaxLine = 256 << 10

// The operations. Open comes first and once.
const (
	OpOpen = "open"
	OpSign = "sign"
)

// Request is what the helper is asked.
type Request struct {
	Version int    `json:"v"`
	Op      string `json:"op"`

	// for OpOpen of a key in a service: its URI
	Service string `json:"service,omitempty"`

	// for OpOpen of a key in a token
	Module       string `json:"module,omitempty"`
	Token        string `json:"token,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	SlotID       *uint  `json:"slot_id,omitempty"`
	Object       string `json:"object,omitempty"`
	ID           []byte `json:"id,omitempty"`
	PIN          []byte `json:"pin,omitempty"`
	// PublicOnly asks for the public key without logging in.
	PublicOnly bool `json:"public_only,omitempty"`

	// for OpSign: a SHA-256
	Digest []byte `json:"digest,omitempty"`
}

// Response is what it answers.
type Response struct {
	Version   int      `json:"v"`
	Failure   *Failure `json:"failure,omitempty"`
	Public    []byte   `json:"public,omitempty"`    // of OpOpen: the SubjectPublicKeyInfo
	Hash      string   `json:"hash,omitempty"`      // of OpOpen, by services: the hash that the key signs, as crypto.Hash names it
	Signature []byte   `json:"signature,omitempty"` // of OpSign: of RSA, or r and s
}

// Code says what kind of failure it is.
type Code string

// The codes of failures.
const (
	BadRequest      Code = "bad-request"
	ModuleMissing   Code = "module-missing"   // no such file
	ModuleUnusable  Code = "module-unusable"  // not a PKCS #11 module for this machine, or it does not start
	TokenMissing    Code = "token-missing"    // Found: the tokens there are
	TokenAmbiguous  Code = "token-ambiguous"  // Found: the tokens that fit
	PINMissing      Code = "pin-missing"      // the token wants a PIN and got none
	PINWrong        Code = "pin-wrong"        //
	PINLocked       Code = "pin-locked"       //
	ObjectMissing   Code = "object-missing"   // Found: the private keys there are
	ObjectAmbiguous Code = "object-ambiguous" // Found: the keys that fit
	KeyUnsuitable   Code = "key-unsuitable"   // neither RSA nor EC, or not for signatures
	PublicMissing   Code = "public-missing"   // the token has no public key or certificate for the private key
	Failed          Code = "failed"           // anything else; Detail is what the module or service said
	TimedOut        Code = "timed-out"        // made by Client: there was no answer in time
	HelperEnded     Code = "helper-ended"     // made by Client: the helper is gone
	HelperBroken    Code = "helper-broken"    // made by Client: the helper says something that is not of this protocol
)

// Failure is why a request could not be done.
type Failure struct {
	Code   Code     `json:"code"`
	Detail string   `json:"detail,omitempty"`
	Found  []string `json:"found,omitempty"`
}

func (f *Failure) Error() string {
	if f.Detail == "" {
		return string(f.Code)
	}
	return string(f.Code) + ": " + f.Detail
}

// errTooLong is a line over MaxLine.
var errTooLong = errors.New("a line is longer than the protocol allows")

// ReadLine reads one message into v. At the end of the input it returns io.EOF.
func ReadLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return errTooLong
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		break
	}
	defer clear(line) // a request has the PIN
	if err := json.Unmarshal(bytes.TrimSpace(line), v); err != nil {
		return fmt.Errorf("a line is not a message of the protocol")
	}
	return nil
}

// WriteLine writes one message.
func WriteLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	defer clear(line)
	_, err = w.Write(append(line, '\n'))
	return err
}
