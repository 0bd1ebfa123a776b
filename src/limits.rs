//! Every cap of the server, with its reason.
