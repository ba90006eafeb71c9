package signing

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // read only: openssl 1.0 encrypted keys with it
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // read only: the default of PBKDF2 in RFC 8018
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"hash"

	"golang.org/x/crypto/scrypt"
)

// Encrypted PKCS #8 keys (RFC 5958 section 3) with the password-based scheme PBES2 (RFC 8018 section 6.2), which is what
// every tool in use writes: a key derived by PBKDF2 or scrypt (RFC 7914 section 7) and a block cipher in CBC mode.

type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF, Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

type scryptParams struct {
	Salt      []byte
	N, R, P   int
	KeyLength int `asn1:"optional"`
}

const (
	oidPBES2  = "1.2.840.113549.1.5.13"
	oidPBKDF2 = "1.2.840.113549.1.5.12"
	oidScrypt = "1.3.6.1.4.1.11591.4.11"
)

var pbkdf2Hashes = map[string]func() hash.Hash{
	"":                    sha1.New, // absent
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.8":  sha256.New224,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

var pbes2Ciphers = map[string]struct {
	keySize int
	open    func(key []byte) (cipher.Block, error)
}{
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
}

// Bounds on what a key file may ask for: far above any default in use, and seconds of work at most.
const (
	maxPBKDF2Iterations = 20_000_000
	maxScryptMemory     = 1 << 30
)

func errUnknownEncryption() error {
	return &KeyError{
		Reason: "the key is encrypted in a way that cannot be read here",
		Advice: "encrypt it again with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEWKEY",
	}
}

// decryptPKCS8 returns the PrivateKeyInfo in der. A wrong passphrase is detected by the padding (ErrPassphrase), or, one time in
// 256, by what follows when the result is parsed.
func decryptPKCS8(der, passphrase []byte) ([]byte, error) {
	var info encryptedPrivateKeyInfo
	var params pbes2Params
	if !unmarshal(der, &info) {
		return nil, &KeyError{Reason: "the encrypted key is damaged"}
	}
	if info.Algorithm.Algorithm.String() != oidPBES2 || !unmarshal(info.Algorithm.Parameters.FullBytes, &params) {
		return nil, errUnknownEncryption()
	}
	spec, known := pbes2Ciphers[params.Cipher.Algorithm.String()]
	if !known {
		return nil, errUnknownEncryption()
	}
	key, err := deriveKey(params.KDF, passphrase, spec.keySize)
	if err != nil {
		return nil, err
	}
	block, err := spec.open(key)
	if err != nil {
		return nil, errUnknownEncryption()
	}
	var iv []byte
	if !unmarshal(params.Cipher.Parameters.FullBytes, &iv) || len(iv) != block.BlockSize() ||
		len(info.Data) == 0 || len(info.Data)%block.BlockSize() != 0 {
		return nil, &KeyError{Reason: "the encrypted key is damaged"}
	}
	plain := make([]byte, len(info.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, info.Data)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > block.BlockSize() ||
		!bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, ErrPassphrase
	}
	return plain[:len(plain)-pad], nil
}

func deriveKey(kdf pkix.AlgorithmIdentifier, passphrase []byte, size int) ([]byte, error) {
	switch kdf.Algorithm.String() {
	case oidPBKDF2:
		var p pbkdf2Params
		if !unmarshal(kdf.Parameters.FullBytes, &p) || p.Iterations < 1 || p.Iterations > maxPBKDF2Iterations ||
			(p.KeyLength != 0 && p.KeyLength != size) {
			return nil, errUnknownEncryption()
		}
		newHash := pbkdf2Hashes[p.PRF.Algorithm.String()]
		if newHash == nil {
			return nil, errUnknownEncryption()
		}
		return pbkdf2.Key(newHash, string(passphrase), p.Salt, p.Iterations, size)
	case oidScrypt:
		var p scryptParams
		if !unmarshal(kdf.Parameters.FullBytes, &p) || p.N < 2 || p.R < 1 || p.P < 1 || p.R > 1024 || p.P > 1024 ||
			p.N > maxScryptMemory/(128*p.R) || (p.KeyLength != 0 && p.KeyLength != size) {
			return nil, errUnknownEncryption()
		}
		key, err := scrypt.Key(passphrase, p.Salt, p.N, p.R, p.P, size)
		if err != nil {
			return nil, errUnknownEncryption()
		}
		return key, nil
	}
	return nil, errUnknownEncryption()
}

func unmarshal(der []byte, into any) bool {
	rest, err := asn1.Unmarshal(der, into)
	return err == nil && len(rest) == 0
}
