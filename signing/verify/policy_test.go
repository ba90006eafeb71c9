package verify

import (
	"crypto/elliptic"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVerifyAll(t *testing.T) {
	t.Parallel()
	a, b, foreign := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())
	keys, err := ParseKeys(slices.Concat(publicPEM(t, &a.PublicKey), publicPEM(t, &b.PublicKey), publicPEM(t, &a.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	idA, idB := keys[0].ID, keys[1].ID
	byA, byADER := signEC(t, a, "message")
	byAAgain, _ := signEC(t, a, "message")
	byB, _ := signEC(t, b, "message")
	byForeign, _ := signEC(t, foreign, "message")
	other, _ := signEC(t, b, "another message")
	cases := map[string]struct {
		policy     Policy
		signatures [][]byte
		want       []string
		missing    []string // of the error
	}{
		"any, none":              {Any, nil, nil, []string{idA, idB}},
		"any, empty":             {Any, [][]byte{nil, {}}, nil, []string{idA, idB}},
		"any, first":             {Any, [][]byte{byA}, []string{idA}, nil},
		"any, second":            {Any, [][]byte{byB}, []string{idB}, nil},
		"any, both":              {Any, [][]byte{byB, byA}, []string{idA, idB}, nil},
		"any, foreign":           {Any, [][]byte{byForeign}, nil, []string{idA, idB}},
		"any, foreign and one":   {Any, [][]byte{byForeign, byB}, []string{idB}, nil},
		"any, of another":        {Any, [][]byte{other}, nil, []string{idA, idB}},
		"all, none":              {All, nil, nil, []string{idA, idB}},
		"all, both":              {All, [][]byte{byB, byA}, []string{idA, idB}, nil},
		"all, both and foreign":  {All, [][]byte{byForeign, byADER, byB}, []string{idA, idB}, nil},
		"all, one":               {All, [][]byte{byA}, nil, []string{idB}},
		"all, one twice":         {All, [][]byte{byA, byA}, nil, []string{idB}},
		"all, one in two ways":   {All, [][]byte{byA, byADER, byAAgain}, nil, []string{idB}},
		"all, second of another": {All, [][]byte{byA, other}, nil, []string{idB}},
		"all, one and foreign":   {All, [][]byte{byB, byForeign}, nil, []string{idA}},
	}
	for name, c := range cases {
		ids, err := ring.VerifyAll([]byte("message"), c.signatures, c.policy)
		if !cmp.Equal(ids, c.want) {
			t.Errorf("%s: %v, not %v", name, ids, c.want)
		}
		if c.missing == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var me *MissingError
		if !errors.As(err, &me) || !errors.Is(err, ErrNoMatch) || !cmp.Equal(me.Missing, c.missing) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, id := range c.missing {
			if !strings.Contains(err.Error(), id) {
				t.Errorf("%s: %q does not name %s", name, err, id)
			}
		}
	}
}

// A policy that is misspelt, and a keyring that nobody made, verify nothing.
func TestVerifyAllFailsClosed(t *testing.T) {
	t.Parallel()
	k := ecKey(t, elliptic.P256())
	raw, _ := signEC(t, k, "message")
	key, err := NewKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, policy := range []Policy{"", "ALL", "none", "any "} {
		if ids, err := ring.VerifyAll([]byte("message"), [][]byte{raw}, policy); err == nil || ids != nil {
			t.Errorf("policy %q: %v, %v", policy, ids, err)
		}
		if _, err := ParsePolicy(string(policy)); err == nil {
			t.Errorf("policy %q is one", policy)
		}
	}
	for _, policy := range []Policy{Any, All} {
		if ids, err := new(Keyring).VerifyAll([]byte("message"), [][]byte{raw}, policy); err == nil || ids != nil {
			t.Errorf("empty keyring, %s: %v, %v", policy, ids, err)
		}
		if p, err := ParsePolicy(string(policy)); err != nil || p != policy {
			t.Errorf("%s: %v", policy, err)
		}
	}
	if _, err := ring.VerifyAll([]byte("message"), make([][]byte, maxSignatures+1), Any); err == nil {
		t.Error("any number of signatures is checked")
	}
}
