package core

// How far ahead of a copy the next ranges are asked for, and how much of them: the
// processor finds out by itself that a range goes on.
const (
	prefetchRanges = 8
	prefetchBytes  = 512
)
