// A file descriptor that is closed at the end of its scope.
//
//     const Descriptor file(::open(path, O_RDONLY | O_CLOEXEC));
//     if (!file.valid()) { ... errno says why ... }
//
// Owned by one scope; no locking, and what close(2) says is not looked at.
#pragma once

#include <unistd.h>

#include <utility>

namespace sigmacast {

class Descriptor {
 public:
    explicit Descriptor(int value) : value_(value) {}
    ~Descriptor() {
        if (value_ >= 0) {
            ::close(value_);
        }
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    [[nodiscard]] int get() const { return value_; }
    [[nodiscard]] bool valid() const { return value_ >= 0; }
    int release() { return std::exchange(value_, -1); }

 private:
    int value_;
};

}  // namespace sigmacast
