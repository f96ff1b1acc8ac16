package issuance

import "time"

// ScheduledTime is for tests: when a certificate of that share is replaced.
func (r Reissue) ScheduledTime(share float64) time.Time { return r.scheduledTime(share) }
