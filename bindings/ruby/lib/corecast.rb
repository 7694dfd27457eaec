# frozen_string_literal: true

# corecast for Ruby: publish/subscribe between the workers of a forking server, through libcorecast.
#
#   hub = Corecast::Hub.new(workers: 2)   # before fork
#   hub.start                             # the master, on a thread of its own
#   ...                                   # in worker number `index`:
#   core = hub.attach(index)
#   core.join("news")
#   core.send("news", "hello")
#   core.recv(1000)&.body                 # waits up to a second; other Ruby threads go on
#
# A core is used by one thread at a time. Errors are Corecast::Error, with the text of the library.

require "fiddle/import"

module Corecast
  # A call that failed: `code` is one of the CHANNEL_E_... of corecast.h.
  class Error < StandardError
    attr_reader :code

    def initialize(code, text)
      @code = code
      super(text)
    end
  end

  # What was received. `lost`: so many messages were lost to this core just before it.
  Message = Struct.new(:name, :body, :worker, :core, :ticket, :timestamp, :lost)

  # Any worker, any core.
  ANY = 0xffffffff

  # The functions of libcorecast. Fiddle lets other Ruby threads run while one of them waits.
  module Library
    extend Fiddle::Importer
    dlload ENV.fetch("CORECAST_LIBRARY", "libcorecast.so.0.1")

    typealias "uint32_t", "unsigned int"
    typealias "uint64_t", "unsigned long long"

    Config = struct [
      "size_t size", "uint32_t workers", "uint32_t cores", "uint32_t extra", "uint32_t channels",
      "size_t lane_bytes", "size_t queue_bytes", "size_t max_message", "uint32_t overflow",
      "uint32_t timestamps", "uint32_t order", "uint32_t populate", "uint32_t spin_us",
      "uint32_t answer_timeout_ms", "uint32_t isolation", "uint32_t await_successor",
      "size_t arena_bytes", "uint32_t assist", "uint32_t huge_pages", "size_t slab_bytes"
    ]
    Received = struct [
      "size_t size", "void *name", "size_t name_len", "void *body", "size_t body_len",
      "uint64_t channel", "uint32_t worker", "uint32_t core", "uint64_t ticket",
      "uint64_t timestamp", "uint64_t lost"
    ]

    extern "const char *channel_last_error()"
    extern "int channel_config_default(void *)"
    extern "int channel_hub_create(void *, void **)"
    extern "int channel_hub_start(void *)"
    extern "int channel_hub_destroy(void *)"
    extern "int channel_worker_died(void *, unsigned int)"
    extern "int channel_attach(void *, unsigned int, unsigned int, void **)"
    extern "int channel_detach(void *)"
    extern "int channel_join(void *, const char *, void *)"
    extern "int channel_leave(void *, const char *)"
    extern "int channel_leave_all(void *)"
    extern "int channel_send(void *, const char *, const char *, size_t)"
    extern "int channel_send_timeout(void *, const char *, const char *, size_t, int)"
    extern "int channel_recv_timeout(void *, int, void *)"
    extern "int channel_fd(void *)"

    # Calls a function; what it returns, or the error.
    def self.check(function, *arguments)
      result = public_send(function, *arguments)
      raise Error.new(result, channel_last_error.to_s) if result.negative?

      result
    end

    # The pointer that a function stores behind its last argument.
    def self.pointer(function, *arguments)
      out = Fiddle::Pointer.malloc(Fiddle::SIZEOF_VOIDP, Fiddle::RUBY_FREE)
      check(function, *arguments, out)
      out.ptr
    end
  end

  # A hub: make it before the server forks.
  class Hub
    # Settings are those of channel_config_t: workers, cores, extra, channels, queue_bytes, ...
    def initialize(**settings)
      config = Library::Config.malloc(Fiddle::RUBY_FREE)
      config.size = Library::Config.size
      Library.check(:channel_config_default, config)
      settings.each do |name, value|
        raise ArgumentError, "a hub has no setting #{name}" unless config.respond_to?("#{name}=")

        config.public_send("#{name}=", Integer(value))
      end
      @handle = Library.pointer(:channel_hub_create, config)
    end

    # Starts the master on a thread of this process.
    def start
      Library.check(:channel_hub_start, @handle)
      self
    end

    # A core of this process: core `core` of worker `worker`, or any that is free.
    def attach(worker = ANY, core = worker == ANY ? ANY : 0)
      Core.new(Library.pointer(:channel_attach, @handle, worker, core))
    end

    # Tells that a worker has died; the hub sees it by itself, this is for those who know sooner.
    def worker_died(worker)
      Library.check(:channel_worker_died, @handle, worker)
    end

    def destroy
      Library.check(:channel_hub_destroy, @handle)
      @handle = nil
    end
  end

  # What a worker sends and receives with, from one thread at a time.
  class Core
    def initialize(handle)
      @handle = handle
      @received = Library::Received.malloc(Fiddle::RUBY_FREE)
    end

    def join(name)
      Library.check(:channel_join, @handle, c_string(name), nil)
      self
    end

    def leave(name)
      Library.check(:channel_leave, @handle, c_string(name))
    end

    def leave_all
      Library.check(:channel_leave_all, @handle)
    end

    # Sends to all cores that have joined. With `timeout` (ms, -1: for ever) it waits for room.
    def send(name, body, timeout: 0)
      body = body.to_s
      if timeout.zero?
        Library.check(:channel_send, @handle, c_string(name), body, body.bytesize)
      else
        Library.check(:channel_send_timeout, @handle, c_string(name), body, body.bytesize, timeout)
      end
      nil
    end

    # The next message, waiting up to `timeout` ms (-1: for ever), or nil.
    def recv(timeout = 0)
      @received.size = Library::Received.size
      return if Library.check(:channel_recv_timeout, @handle, timeout, @received).zero?

      bytes = ->(at, length) { length.zero? ? +"" : Fiddle::Pointer.new(at.to_i)[0, length] }
      Message.new(bytes.(@received.name, @received.name_len).force_encoding(Encoding::UTF_8),
                  bytes.(@received.body, @received.body_len),
                  @received.worker, @received.core, @received.ticket, @received.timestamp,
                  @received.lost)
    end

    # The descriptor that becomes readable, once, when there is something after `recv` found nothing.
    def fd
      Library.check(:channel_fd, @handle)
    end

    def detach
      Library.check(:channel_detach, @handle)
      @handle = nil
    end

    private

    def c_string(name)
      name = name.to_s
      raise ArgumentError, "a channel name has no NUL" if name.include?("\0")

      name
    end
  end
end
