// Requests events from an engine with dockerode. tests/real/clients.rs describes the arguments.

const readline = require('node:readline');
const Docker = require('dockerode');

async function main() {
  const docker = new Docker();
  for (const arg of process.argv.slice(2)) {
    try {
      const stream = await docker.getEvents(JSON.parse(arg));
      // A cut stream is an error, and the program exits.
      stream.on('error', (error) => { console.error(error); process.exit(1); });
      for await (const line of readline.createInterface({ input: stream, crlfDelay: Infinity })) {
        console.log(JSON.stringify(JSON.parse(line)));
      }
    } catch (error) {
      if (!error.statusCode) throw error;
      console.log('refused:', error.statusCode, error.json ? error.json.message : String(error.reason));
    }
    console.log();
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
