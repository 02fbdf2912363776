//! Findings and non-findings over snapshots made by hand.
