//! Tests of the object pool.
