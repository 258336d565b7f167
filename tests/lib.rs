//! The library of the package of the tests, which are programs of their own. By it, the programs that `ui` compiles have the features.
