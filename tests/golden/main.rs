//! The models against transformers on the same weights; references by `make.py` and `families.py` (see README.md here).

mod adapters;
mod families;
mod reference;
mod smolvlm;
