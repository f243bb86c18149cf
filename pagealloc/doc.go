// Package pagealloc hands out fixed-size pages so that they stay in long
// contiguous runs.
//
// It owns page numbers: which pages of a pool are free, which request holds the
// others, and which run of free pages serves a request best. It knows neither what a
// page weighs in bytes, nor where its memory lies, nor what it is used for.
//
// # Why
//
// The KV cache of a prompt is moved from one machine to another as one piece for each
// run of its pages. A pool that hands out single pages in the order in which they were
// freed falls apart: while requests are decoded together, neighbouring pages go to
// different requests, which end at different times. After a thousand requests a run is
// one page long, and a transfer costs a thousand times as many pieces. TestIncident
// has the load and prints the figures.
//
// # How
//
// A [Pool] keeps its free pages as maximal runs, its gaps. Freed pages join their
// neighbours at once, so the pool's fragmentation depends on what is allocated now and
// not on the order in which earlier requests ended. Three rules keep runs long:
//
// A request grows in place. The pages behind its last one are taken first, as long as
// they are free. Pages at the start of the gap behind a request can be set aside for it,
// its room: others are not given them while there is another way. Room comes with
// [Pool.Alloc]; a request that has used it up gets more when it grows, half as many pages
// as it has grown by so far, at least 2 and at most 64; and [Pool.Reserve] sets it.
//
// Pages that do not go behind others of the request are chosen in this order, n being
// what is asked for and r the room to go with it:
//
//  1. The gap with the fewest pages that are not set aside, of those with n+r of them.
//  2. The gap with the most pages that are not set aside, if it has n: less room is left.
//  3. Room of others is given back: the shortest gap of n+r pages set aside or not, or
//     else the longest one, if it has n. What is left of it is shared: half of it,
//     at most r pages, is behind the new pages, the other half stays in front of
//     them, for the request there.
//  4. No gap has n pages. All of the longest one is taken, room included, and the
//     remainder is chosen in the same way.
//
// Of equals the one with the lowest page is taken. In 1 and 2 the pages are the first ones that
// are not set aside. So room never makes an allocation fail, and costs others
// a longer run only where it would have cost them a split.
//
// [List] is what a Pool is compared with: the two free lists that serving frameworks have.
package pagealloc
