//! Functions of a library that the binding opens (its module `sys` at the caller's), with answers that are numbers.

/// `answer`: the type of a number; `bound`: the binding's type of an answer; `without`: the answer where the library was not looked up;
/// `other`: a function that answers otherwise. Makes `find` and a function of each name.
macro_rules! foreign_functions {
    (
        answer $answer:ident, bound $bound:ty, without $without:ident;
        other $other:ident: $other_type:ty;
        $($name:ident($($argument:ident: $type:ty),*);)*
    ) => {
        /// Every function that is called, looked up at once: the binding would look each up at its first call and panic where it is missing.
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> $answer,)*
            $other: $other_type,
        }

        static FUNCTIONS: std::sync::OnceLock<Functions> = std::sync::OnceLock::new();

        /// May panic inside the binding if there is no library.
        fn look_up() -> Option<Functions> {
            // SAFETY: opens a library by name, and never closes it; its initialisers are the vendor's. Functions of the types that the compiler compares
            // with the binding's below; an answer is a C enum, which is an int.
            unsafe {
                let library = sys::culib();
                Some(Functions {
                    $($name: *library.get(stringify!($name).as_bytes()).ok()?,)*
                    $other: *library.get(stringify!($other).as_bytes()).ok()?,
                })
            }
        }

        /// Looks all functions up, once per process; whether the library has them. May panic inside the binding if there is no library.
        pub(super) fn find() -> bool {
            if FUNCTIONS.get().is_none() {
                let Some(functions) = look_up() else { return false };
                // Whoever is first, all find the same.
                FUNCTIONS.get_or_init(|| functions);
            }
            true
        }

        $(
            const _: unsafe fn($($type),*) -> $bound = sys::$name;

            /// # Safety
            /// As the library's documentation says.
            pub(super) unsafe fn $name($($argument: $type),*) -> $answer {
                match FUNCTIONS.get() {
                    // SAFETY: the caller's promise.
                    Some(functions) => unsafe { (functions.$name)($($argument),*) },
                    None => $without,
                }
            }
        )*
    };
}

pub(super) use foreign_functions;
