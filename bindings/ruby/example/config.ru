# frozen_string_literal: true

# What the workers of the cluster have said to each other: GET / shows it, POST / says something.
class Chat
  HEARD = []
  SPEAKING = Mutex.new

  def self.enter(hub, worker)
    listener = hub.attach(worker, 0).join("chat")
    @speaker = hub.attach(worker, 1)
    Thread.new { loop { (message = listener.recv(-1)) && HEARD << message } }
  end

  def self.say(line)
    # A core is used by one thread at a time.
    SPEAKING.synchronize { @speaker.send("chat", line, timeout: 1000) }
  end

  def self.call(env)
    if env["REQUEST_METHOD"] == "POST"
      say(env["rack.input"].read)
      return [200, {}, ["said\n"]]
    end
    lines = HEARD.map { |message| "#{message.worker}: #{message.body}\n" }
    [200, { "x-worker" => Process.pid.to_s, "content-type" => "text/plain" }, lines]
  end
end

run Chat
