// Our engine's compression: the methods compression.* and the threads that do the work.
//
//     Compression compression({.folders = {"/srv/media"}, .state_folder = data + "/engine"});
//     compression.start();
//     methods.merge(compression.methods());
//
// Threads: the loop calls the methods, which touch no file and never wait for one: a submit is
// checked by its text alone. One thread looks at what was submitted (its size, or why it cannot be
// compressed), so that a mistake is told while all workers are busy; the workers compress, at a low
// priority. All share the queue under one mutex, held for as long as a list takes to copy, because
// a worker in a read of minutes cannot be asked. stop() cancels everything and waits for the
// threads, for as long as one block or one sync takes. Jobs do not survive a restart.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "producer/host_engine/envelope.h"
#include "producer/host_engine/folders.h"

namespace sigmacast::host_engine {

struct CompressionOptions {
    std::vector<std::string> folders;  // Absolute; below these alone files are compressed.
    std::string state_folder;          // Exists, and is this process's alone.
    std::size_t workers = 2;
    int level = 3;
};

class Compression {
 public:
    explicit Compression(CompressionOptions options);
    ~Compression();
    Compression(const Compression&) = delete;
    Compression& operator=(const Compression&) = delete;

    void start();
    void stop();

    /// They refer to this object.
    Methods methods();

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::host_engine
