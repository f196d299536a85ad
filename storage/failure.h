// How an error leaves the private functions of this module: as a Failure, caught in each public
// one. Included by its .cc files alone.
#pragma once

#include <utility>

#include "common/result.h"

namespace sigmacast::storage {

struct Failure {
    Error error;
};

inline void need(const Result<>& result) {
    if (!result) {
        throw Failure{result.error()};
    }
}

template <class T>
T need(Result<T> result) {
    if (!result) {
        throw Failure{result.error()};
    }
    return std::move(*result);
}

}  // namespace sigmacast::storage
