package build

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	"github.com/twinkeel/twinkeel/pipeline"
)

// SavedVariables are digests of the values of variables, with a salt, so that equal values of two plans cannot be told.
//
// A salt alone would not keep a PIN of four digits: whoever has the file can try all. So the sensitive values have one digest
// together, which a long one among them makes impossible to guess, and which costs much to compute (PBKDF2); and the file
// is for its owner alone. Who has short secrets and nothing else should keep plan files as carefully as those.
type SavedVariables struct {
	Salt      string            `json:"salt"`                // hex
	Plain     map[string]string `json:"plain,omitempty"`     // HMAC-SHA256 by name
	Names     []string          `json:"sensitive,omitempty"` // of the sensitive ones
	Sensitive string            `json:"sensitive_digest,omitempty"`
}

// secretRounds of PBKDF2 take about a tenth of a second (OWASP's advice for SHA-256).
const secretRounds = 600_000

const saltSize = 16

func saveVariables(plan *pipeline.Plan, salt []byte) (*SavedVariables, error) {
	s := &SavedVariables{Salt: hex.EncodeToString(salt), Plain: map[string]string{}}
	var secrets strings.Builder
	for _, v := range plan.Variables {
		if v.Sensitive {
			s.Names = append(s.Names, v.Name)
			fmt.Fprintf(&secrets, "%q=%q\n", v.Name, string(v.JSON))
			continue
		}
		mac := hmac.New(sha256.New, salt)
		fmt.Fprintf(mac, "%q=%q\n", v.Name, string(v.JSON))
		s.Plain[v.Name] = hex.EncodeToString(mac.Sum(nil))
	}
	if len(s.Names) > 0 {
		key, err := pbkdf2.Key(sha256.New, secrets.String(), salt, secretRounds, sha256.Size)
		if err != nil {
			return nil, err
		}
		s.Sensitive = hex.EncodeToString(key)
	}
	return s, nil
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	return salt
}

// changes says which variables have other values now.
func (s *SavedVariables) changes(plan *pipeline.Plan) []string {
	salt, err := hex.DecodeString(s.Salt)
	if err != nil || len(salt) != saltSize || (len(s.Names) > 0) != (s.Sensitive != "") {
		return []string{"its variables cannot be read"}
	}
	now, err := saveVariables(plan, salt)
	if err != nil {
		return []string{"its variables cannot be compared: " + err.Error()}
	}
	var changes []string
	names := func(v *SavedVariables) map[string]string {
		all := maps.Clone(v.Plain)
		if all == nil {
			all = map[string]string{}
		}
		for _, name := range v.Names {
			all[name] = "sensitive"
		}
		return all
	}
	for _, change := range differences(names(s), names(now)) {
		changes = append(changes, "var."+change)
	}
	if len(changes) == 0 && s.Sensitive != now.Sensitive {
		what := "the sensitive variable " + s.Names[0]
		if len(s.Names) > 1 {
			what = "one of the sensitive variables " + strings.Join(s.Names, ", ")
		}
		changes = append(changes, what+" changed; give the same values as for the plan")
	}
	return changes
}
