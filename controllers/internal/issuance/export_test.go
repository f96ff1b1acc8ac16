package issuance

import "time"

// ScheduledTime exposes scheduledTime to tests.
func (r Reissue) ScheduledTime(share float64) time.Time { return r.scheduledTime(share) }
