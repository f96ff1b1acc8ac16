package controllers

import (
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"github.com/servingcert/operator/controllers/internal/text"
)

// maxNoteLength is how long the note of an Event may be; the API server refuses a longer one, and nobody would hear of it.
const maxNoteLength = 1024

// LogWriter returns a writer for the log, of which errors quote what tenants wrote.
func LogWriter(to io.Writer) io.Writer { return text.Writer{To: to} }

// truncatingRecorder cuts the notes of Events to the length that the API server takes, and escapes what
// tenants wrote into them.
type truncatingRecorder struct{ events.EventRecorder }

// Eventf records an Event.
func (r truncatingRecorder) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.EventRecorder.Eventf(regarding, related, kind, reason, action, "%s", text.Printable(fmt.Sprintf(note, args...), maxNoteLength))
}
