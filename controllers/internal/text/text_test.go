package text_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/servingcert/operator/controllers/internal/text"
)

// TestPrintable checks that no character comes through that a terminal interprets, and that the
// rest keeps its meaning.
func TestPrintable(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ input, want string }{
		"plain":                    {"Secret web-tls: «größer» ключ", "Secret web-tls: «größer» ключ"},
		"an escape sequence":       {"a\x1b[31mb", `a\u001b[31mb`},
		"its one-byte form":        {"a\u009b31mb", `a\u009b31mb`},
		"line breaks":              {"a\r\nReason: b\u2028c", `a\u000d\u000aReason: b\u2028c`},
		"a bidirectional override": {"a\u202eb\u2066c", `a\u202eb\u2066c`},
		"an invisible character":   {"a\u200bb\U000e0041c\x00\x7f", `a\u200bb\udb40\udc41c\u0000\u007f`},
		"no UTF-8":                 {"a\xffb", "a\ufffdb"},
		"long":                     {strings.Repeat("ä", 100), strings.Repeat("ä", 30) + " …"},
		"long, once escaped":       {strings.Repeat("\n", 20), strings.Repeat(`\u000a`, 10) + " …"},
	} {
		if got := text.Printable(tc.input, 64); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b\u202e", 10)
	f.Fuzz(func(t *testing.T, input string, maxBytes int) {
		maxBytes = max(8, maxBytes)
		got := text.Printable(input, maxBytes)
		if len(got) > maxBytes || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %q", got)
		}
	})
}

// TestWriter checks that a log line in JSON keeps its meaning.
func TestWriter(t *testing.T) {
	t.Parallel()
	message := "a\u009b31m\u202eb\U000e0041c"
	line, err := json.Marshal(map[string]string{"error": message})
	if err != nil {
		t.Fatal(err)
	}
	var written strings.Builder
	if n, err := (text.Writer{To: &written}).Write(append(line, '\n')); err != nil || n != len(line)+1 {
		t.Fatalf("wrote %d: %v", n, err)
	}
	got := written.String()
	if strings.ContainsAny(got, message[1:3]+"\u202e\U000e0041") || !strings.HasSuffix(got, "\n") {
		t.Errorf("the line is %q", got)
	}
	var read map[string]string
	if err := json.Unmarshal([]byte(got), &read); err != nil || read["error"] != message {
		t.Errorf("it says %q (%v)", read["error"], err)
	}
}
