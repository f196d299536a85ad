// The thread on which a program decides (of an edge with several io threads: each one of these): an
// Asio loop, without Asio in the header. Pure cores are driven from it; adapters post to it from
// their own threads.
//
// Everything but post() and stop() is to be called on the loop's thread (or before run()).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "common/time.h"

namespace boost::asio {
class io_context;
}

namespace sigmacast {

class Loop {
 public:
    Loop();
    ~Loop();
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;

    /// Runs until stop(). Returns when every handler that was running has returned.
    void run();
    /// From any thread.
    void stop();
    /// Runs `work` on the loop's thread, later. From any thread.
    void post(std::function<void()> work);
    /// Calls `handler` once, on the loop, at the first SIGINT or SIGTERM; a second one ends the
    /// process at once.
    void on_terminate(std::function<void()> handler);
    /// Calls `handler`, on the loop, at each SIGHUP, which ends the process otherwise.
    void on_hangup(std::function<void()> handler);

    /// Has Asio make what it keeps of a descriptor for `count` of them, in steps of many at once.
    /// It keeps that for ever: made one by one it would lie among what each client has, and no page
    /// of those that left could be given back.
    void reserve_descriptors(std::size_t count);

    boost::asio::io_context& context();

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Calls its function at a given time. Runs on: the loop. Setting it again replaces the earlier
/// time; destroying it cancels.
class Timer {
 public:
    Timer(Loop& loop, std::function<void()> fire);
    ~Timer();
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    /// At `when`, or soon if that is past; nullopt cancels.
    void set(std::optional<Mono> when);

 private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

}  // namespace sigmacast
