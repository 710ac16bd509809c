# The process of the program: it answers calls of its function.


def other(value):
    return None


mark(b's')
job = job()
os.close(report)
names = {'__name__': '__main__'}
exec(compile(job['code'], 'program', 'exec'), names)
function = names[job['function']]
say('ready')
for call in heard:
    positional, named = unpack(json.loads(call))
    try:
        result = ['returned', pack(function(*positional, **named))]
    except Exception as error:
        result = ['raised', type(error).__name__]
    say(result)
