// Package text makes text from tenants or other servers safe for statuses, Events and logs.
package text

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// ellipsis marks the end of truncated text.
const ellipsis = " …"

// Printable returns s in at most maxBytes bytes. It escapes as \uXXXX every character that a
// terminal would interpret instead of showing it: line breaks, escape sequences, bidirectional
// overrides.
func Printable(s string, maxBytes int) string {
	if len(s) > maxBytes {
		// Escaping only makes s longer.
		s = s[:maxBytes+1]
	}
	if s = escape(s, ""); len(s) <= maxBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxBytes-len(ellipsis)], "") + ellipsis
}

// escape returns s with every character escaped that is neither printable nor allowed.
func escape(s, allowed string) string {
	isPrintable := func(r rune) bool { return unicode.IsPrint(r) || strings.ContainsRune(allowed, r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !isPrintable(r) }) < 0 {
		return s
	}
	var escaped strings.Builder
	for _, r := range s {
		switch {
		case isPrintable(r):
			escaped.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&escaped, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&escaped, `\u%04x`, r)
		}
	}
	return escaped.String()
}

// Writer escapes the lines of a log. A line in JSON keeps its meaning.
type Writer struct{ To io.Writer }

// Write escapes and writes whole lines.
func (w Writer) Write(lines []byte) (int, error) {
	if _, err := io.WriteString(w.To, escape(string(lines), "\n\t")); err != nil {
		return 0, err
	}
	return len(lines), nil
}
