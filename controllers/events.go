package controllers

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
)

// maxNote is how long the note of an Event may be; the API server refuses a longer one, and nobody would hear of it.
const maxNote = 1024

// shortNotes cuts the notes of Events to the length that the API server takes.
type shortNotes struct{ events.EventRecorder }

// Eventf records an Event.
func (s shortNotes) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	s.EventRecorder.Eventf(regarding, related, kind, reason, action, "%s", shorten(fmt.Sprintf(note, args...)))
}

func shorten(note string) string {
	const more = " …"
	if len(note) <= maxNote {
		return note
	}
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
