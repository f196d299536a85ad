// Counters and gauges of one process, served as Prometheus text by its /metrics. A metric is made
// once, at start, and kept by reference; making the same name and labels again gives the same
// metric. Thread safe.
#pragma once

#include <map>
#include <memory>
#include <string>

namespace sigmacast {

using Labels = std::map<std::string, std::string>;

class Counter {
 public:
    virtual void add(double amount = 1) = 0;
    [[nodiscard]] virtual double value() const = 0;

 protected:
    ~Counter() = default;
};

class Gauge {
 public:
    virtual void set(double value) = 0;
    [[nodiscard]] virtual double value() const = 0;

 protected:
    ~Gauge() = default;
};

class Metrics {
 public:
    Metrics();
    ~Metrics();

    /// `name` ends in _total; both live as long as this object.
    Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
    Gauge& gauge(const std::string& name, const std::string& help, const Labels& labels = {});

    /// Prometheus' text exposition format, version 0.0.4, with process_* (resident memory, CPU,
    /// descriptors).
    [[nodiscard]] std::string text() const;

 private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast
