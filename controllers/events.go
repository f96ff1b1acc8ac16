package controllers

import (
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/servingcert/operator/controllers/internal/text"
)

// maxNoteLength is the longest note of an Event, in bytes. The API server rejects an Event with a
// longer note, which would then be lost.
const maxNoteLength = 1024

// LogWriter returns a writer for the log that escapes text of tenants, which errors quote.
func LogWriter(to io.Writer) io.Writer { return text.Writer{To: to} }

// truncatingRecorder truncates the notes of Events to the length that the API server accepts, and
// escapes text of tenants in them.
type truncatingRecorder struct{ events.EventRecorder }

// Eventf records an Event.
func (r truncatingRecorder) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.EventRecorder.Eventf(regarding, related, kind, reason, action, "%s", text.Printable(fmt.Sprintf(note, args...), maxNoteLength))
}
