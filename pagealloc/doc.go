// Package pagealloc hands out fixed-size pages so that they stay in long
// contiguous runs.
//
// It owns page numbers: which pages of a pool are free, and which run of free
// pages serves a request best. It knows neither what a page weighs in bytes, nor
// where its memory lies, nor what it is used for.
//
// A Pool keeps its free pages as runs in address order and gives a request the
// shortest run that holds all of it. Freed pages join their free neighbours at
// once, so the pool's fragmentation depends on what is allocated now and not on
// the order in which earlier requests ended.
package pagealloc
