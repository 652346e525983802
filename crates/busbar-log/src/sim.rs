//! A disk in memory that loses power on demand.
