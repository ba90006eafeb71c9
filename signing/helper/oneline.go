package helper

import (
	"strings"
	"unicode"
)

// secretVariables hold what must not get into a message.
var secretVariables = []string{
	"VAULT_TOKEN", "BAO_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD",
	"AZURE_CLIENT_CERTIFICATE_PASSWORD", "TWINKEEL_PKCS11_PIN",
}

// OneLine makes what a service or a program said fit for an error: without the secrets and those of the environment, without control
// characters, and not endless.
func OneLine(text string, getenv func(string) string, secrets ...string) string {
	for _, name := range secretVariables {
		secrets = append(secrets, getenv(name))
	}
	for _, s := range secrets {
		if len(s) >= 4 {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	text = strings.Join(strings.Fields(Printable(text)), " ")
	const limit = 600
	if runes := []rune(text); len(runes) > limit {
		text = string(runes[:limit]) + "…"
	}
	return text
}

// Printable replaces what a terminal would act on.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
