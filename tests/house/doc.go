// Package house has the tests of the house rules: what may import what, and what
// must build without a C compiler.
package house
